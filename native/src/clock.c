/* What the kernel says of its clock. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/timex.h>

#include "mover.h"

int64_t i2_clock_error(void)
{
    struct timex told = {.modes = 0};
    if (adjtimex(&told) < 0) return -errno;
    return told.status & STA_UNSYNC ? -ETIME : told.maxerror;
}
