"""The daemon's own log: structured, to stderr; text on a terminal, one JSON object per line otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO, cast

import structlog

from daemon.config import settings as config

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup_logging(settings: config.Logs, stream: TextIO | None = None) -> structlog.typing.FilteringBoundLogger:
    """The daemon's logger, to be handed down. What libraries log from WARNING on comes out of the same stream."""
    stream = sys.stderr if stream is None else stream
    text = settings.format == "text" or (settings.format == "auto" and stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if text:
        last: list[Any] = [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                exception_formatter=structlog.dev.plain_traceback,  # the rich one prints values: perhaps secrets
            )
        ]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[settings.level]),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    _adopt_libraries(logger)
    return cast("structlog.typing.FilteringBoundLogger", logger)


class _Forward(logging.Handler):
    """Sends what libraries log to the daemon's log."""

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        name = next(name for name in ("error", "warning") if record.levelno >= LEVELS[name])
        getattr(self._logger, name)(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)


def _adopt_libraries(logger: Any) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)  # set up again: the last one counts
    root.addHandler(_Forward(logger))
