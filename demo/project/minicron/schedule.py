"""A whole cron expression: does it fire at a moment, and when does it fire next?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from minicron.fields import parse_field

HORIZON_YEARS = 8  # 29 February comes every 4 years, and once in a century only after 8


class Schedule:
    """Fires at every minute that all five fields of the expression allow."""

    def __init__(self, expression: str) -> None:
        fields = expression.split()
        if len(fields) != 5:
            raise ValueError(f"{expression!r} has {len(fields)} fields, not 5")
        minute, hour, day, month, weekday = fields
        self.minutes = parse_field(minute, 0, 59)
        self.hours = parse_field(hour, 0, 23)
        self.days = parse_field(day, 1, 31)
        self.months = parse_field(month, 1, 12)
        self.weekdays = frozenset(value % 7 for value in parse_field(weekday, 0, 7))
        self.either_day = not day.startswith("*") and not weekday.startswith("*")

    def matches(self, moment: datetime) -> bool:
        """Whether it fires in this minute."""
        return moment.minute in self.minutes and moment.hour in self.hours and moment.month in self.months and self._day_matches(moment)

    def next_run(self, after: datetime) -> datetime | None:
        """The first run later than `after`, or None where there is none within HORIZON_YEARS."""
        moment = after.replace(second=0, microsecond=0) + timedelta(minutes=1)
        while moment.year <= after.year + HORIZON_YEARS:
            if moment.month not in self.months:
                moment = _first_of_next_month(moment)
            elif not self._day_matches(moment):
                moment = moment.replace(hour=0, minute=0) + timedelta(days=1)
            elif moment.hour not in self.hours:
                moment = moment + timedelta(hours=1)
            elif moment.minute not in self.minutes:
                moment = moment + timedelta(minutes=1)
            else:
                return moment
        return None

    def upcoming(self, after: datetime, count: int) -> Iterator[datetime]:
        """The next runs, `count` at most."""
        run = self.next_run(after)
        while run is not None and count > 0:
            yield run
            run, count = self.next_run(run), count - 1

    def _day_matches(self, moment: datetime) -> bool:
        in_days = moment.day in self.days
        in_weekdays = moment.isoweekday() % 7 in self.weekdays
        return in_days or in_weekdays if self.either_day else in_days and in_weekdays


def _first_of_next_month(moment: datetime) -> datetime:
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return datetime(year, month, 1)
