"""When does a cron expression fire next?"""

from minicron.schedule import Schedule

__all__ = ["Schedule"]
