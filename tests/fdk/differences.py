"""Where this FDK is not as the official one: the rows of docs/reference/fdk-compatibility.md, which has the reasons."""

from __future__ import annotations

DIFFERENCES: dict[str, tuple[str, ...]] = {
    "asyncio-on-demand": (),
    "background-tasks": (),
    "base-exceptions": (
        "raises_a_base_exception",
        "raises_generator_exit",
        "raises_a_base_group",
        "raises_cancelled_error",
        "cancels_itself",
    ),
    "command-line": (),
    "connection-close": (),
    "dependencies": (),
    "early-import": (),
    "error-log-frames": (),
    "expect-continue": (),
    "idle-connections": (),
    "internals": (),
    "method-not-allowed": (),
    "response-framing": (
        "sends_a_content_length_too_short",
        "sends_a_content_length_too_long",
        "sends_transfer_encoding",
        "sends_the_request_headers_back",
    ),
    "response-header-safety": ("sends_a_line_break_in_a_header", "sends_a_header_name_with_a_space"),
    "spaces-behind-headers": ("sees_spaces_behind_a_request_header",),
    "stale-sockets": (),
    "sys-exit": (),
    "uvloop": (),
}
"""Row -> the handlers (of tests/fdk/functions) whose answers differ because of it."""

DIFFERENT_HANDLERS = frozenset(name for names in DIFFERENCES.values() for name in names)
