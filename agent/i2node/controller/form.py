"""What a call must say, checked: all faults at once, in the grammar that clients know."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from i2node.controller.codes import Code
from i2node.controller.envelope import Refusal

UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class Form:
    """The fields of one object of a call. Readers give a value that is sound, or note a fault and
    give a default; `check` refuses the call if there was one.

    values: what was sent. of: the object's name, "" for the call itself.
    """

    def __init__(self, values: Mapping[str, Any], of: str = "") -> None:
        self._values = values
        self._of = of
        self._faults: list[str] = []

    def named(self, field: str) -> str:
        """How a fault names a field."""
        return f"{self._of}[{field}]" if self._of else field

    def fault(self, clause: str) -> None:
        """Notes what is wrong."""
        self._faults.append(clause)

    def check(self) -> None:
        """Refusal: anything was wrong."""
        if self._faults:
            clauses = "".join(f"{clause};\n" for clause in self._faults)
            raise Refusal(Code.INVALID, f"{Code.INVALID.text}  {clauses}")

    def part(self, values: Mapping[str, Any], of: str) -> Form:
        """An object within this one, by its full name, whose faults count as this one's."""
        part = Form(values, of)
        part._faults = self._faults
        return part

    def names(self) -> list[str]:
        """The fields that were sent, empty or not."""
        return [name for name in self._values if isinstance(name, str)]

    def raw(self, field: str) -> Any:
        """A field as it was sent; None where it was not."""
        return self._values.get(field)

    def given(self, field: str) -> bool:
        """Whether it was sent and is not empty."""
        return self._values.get(field) not in (None, "", [], {})

    def text(self, field: str, default: str | None = None, most: int = 4096) -> str:
        """Text, or a number as text. default None: it must be given."""
        value = self._values.get(field)
        if value is None or value == "":
            if default is None:
                self.fault(f"Lost: {self.named(field)}")
            return default or ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self.fault(f"Not string: {self.named(field)}")
            return default or ""
        text = str(value)
        if not is_storable(text):
            self.fault(f"Not string: {self.named(field)}")
            return default or ""
        if len(text) > most:
            self.fault(f"The {self.named(field)} field must be at most {most} characters in length")
        return text

    def uuid(self, field: str) -> str:
        """A uuid, upper case."""
        text = self.text(field)
        if text and not UUID.fullmatch(text):
            self.fault(f"Not uuid: {self.named(field)}")
        return text.upper()

    def uuids(self, field: str, most: int = 10_000) -> list[str]:
        """A list of them; none where the field is missing."""
        found = self.items(field)
        if len(found) > most:
            self.fault(f"The {self.named(field)} field must hold at most {most} items")
            return []
        if not all(isinstance(one, str) and UUID.fullmatch(one) for one in found):
            self.fault(f"Contains illegal UUID: {self.named(field)}[]")
            return []
        return [one.upper() for one in found]

    def items(self, field: str) -> list[Any]:
        """A list; empty where the field is missing or empty text."""
        value = self._values.get(field)
        if value is None or value == "":
            return []
        if not isinstance(value, list):
            self.fault(f"Not array: {self.named(field)}")
            return []
        return value

    def object(self, field: str) -> Form:
        """An object within this one, which must be given; its faults are its own to check."""
        value = self._values.get(field)
        if not isinstance(value, dict):
            self.fault(f"Lost: {self.named(field)}")
            self.check()
        assert isinstance(value, dict)
        return Form(value, self.named(field))

    def number(
        self, field: str, default: int | None = None, low: int = 0, high: int = 2**63 - 1
    ) -> int:
        """A whole number, also as text. default None: it must be given."""
        value = self._values.get(field)
        if value is None or value == "":
            if default is None:
                self.fault(f"Lost: {self.named(field)}")
            return default or low
        found = _whole(value)
        if found is None or not low <= found <= high:
            bound = (
                f"greater than or equal to {low}"
                if found is None or found < low
                else (f"less than or equal to {high}")
            )
            self.fault(f"The {self.named(field)} field must contain a number {bound}.")
            return default or low
        return found

    def choice(
        self, field: str, among: Collection[str], default: str | None = None, because: str = ""
    ) -> str:
        """One of a few words or numbers, as text; true and false are 1 and 0. default None: it must
        be given. because: why there are no others, and what to do."""
        value = self._values.get(field)
        text = str(int(value)) if isinstance(value, bool) else self.text(field, default)
        if text not in among and (self.given(field) or default is not None):
            allowed = ",".join(among)
            why = f" ({because})" if because else ""
            self.fault(f"The {self.named(field)} field must be one of: {allowed}{why}")
        return text


def is_storable(text: str) -> bool:
    """Whether it is text that files and databases can hold: no NUL, no half of a pair."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value.strip(), re.ASCII):
        return int(value)
    return None
