"""What the controller keeps: tables, their migrations, and the only place that knows SQL."""
