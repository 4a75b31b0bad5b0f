"""``stokerd``: arguments and configuration of the daemon; `daemon.serve` builds and runs it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from daemon import VERSION
from daemon.config import fn_settings
from daemon.config.file import load
from daemon.config.settings import Config, ConfigError, exposure
from daemon.sandbox.doctor import start_probes

EXIT_FAILED, EXIT_USAGE = 1, 2

SWITCH_S = 0.0005
"""How long a thread (of the store, of call records) may keep the interpreter when the event loop wants it; Python's own
5 ms would be seen by calls."""
EXAMPLES = """\
examples:
  stokerd --data ~/.stoker
      serve on http://127.0.0.1:8080 and ~/.stoker/stoker.sock
  stokerd --data /tmp/s --listen 127.0.0.1:0
      serve on a free port; the line "ready http://127.0.0.1:PORT" on standard output says which
  stokerd --doctor
      say what of the sandbox works here, for the present user, and how to get what does not
  stokerd --config /etc/stoker/stoker.yaml --check-config
      check the configuration and exit

signals: SIGTERM and SIGINT drain (running calls finish), a second one does not wait; SIGHUP reads the TLS certificate
    and key again
exit codes of --doctor: 0 the level is sandbox.floor or better, 1 it is not, 2 wrong usage or configuration
exit codes: 0 stopped as asked, 1 cannot serve, 2 wrong usage or configuration
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        config = read_config(args)
        check_exposure(config)
    except (ConfigError, OSError, UnicodeDecodeError) as exc:
        print(f"stokerd: {exc}", file=sys.stderr)
        return EXIT_USAGE
    if args.check_config:
        print(f"configuration is fine: data in {config.data}, listening on {config.http.listen}")
        return 0
    if args.doctor:
        return doctor(config, as_json=args.json)
    start_probes(config.sandbox.uid_first)  # they take as long as what is imported here, on another core
    # Imported late: --help and --check-config must not pay for the import of trio and Quart.
    import trio

    from daemon.listeners import CannotServe
    from daemon.serve import serve

    # A reload while the daemon starts or leaves must not end it; in between `reload_on_hangup` has the signal. A
    # function and not SIG_IGN, which every child would inherit.
    signal.signal(signal.SIGHUP, lambda number, frame: None)
    try:
        sys.setswitchinterval(SWITCH_S)
        trio.run(serve, config)
    except CannotServe as exc:
        print(f"stokerd: {exc}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the interpreter's own end would restore the default
    return 0


def doctor(config: Config, *, as_json: bool) -> int:
    """Probe and print; 1 when the level is below the floor. Needs no daemon and leaves nothing."""
    from daemon.sandbox import cgroup_probe
    from daemon.sandbox import doctor as found
    from daemon.sandbox.networks import open_networks

    start_probes(config.sandbox.uid_first)
    setting = "off" if "cgroup" in config.sandbox.switch_off else config.limits.cgroups
    groups, missing = cgroup_probe.probe(f"stoker-doctor-{os.getpid()}", setting=setting)
    groups.close()
    try:
        with open_networks(config.network, config.data, log=None) as networks:
            egress = found.egress_fact(networks.method, networks.reason)
        diagnosis = found.diagnose(config.sandbox, [found.cgroup_fact(groups.active, missing), egress])
    except ConfigError as exc:
        print(f"stokerd: {exc}", file=sys.stderr)
        return EXIT_USAGE
    floor = config.sandbox.floor
    met = diagnosis.meets(floor)
    print(
        json.dumps({**diagnosis.document(), "floor": floor, "met": met}) if as_json else found.table(diagnosis, floor)
    )
    return 0 if met else EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stokerd",
        description="Run functions on this machine without Docker.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory (default: /var/lib/stoker)")
    parser.add_argument("--listen", metavar="HOST:PORT", help="TCP listener (default: 127.0.0.1:8080)")
    parser.add_argument("--socket", metavar="PATH", help="unix socket (default: stoker.sock in the data directory)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration file (YAML)")
    parser.add_argument("--check-config", action="store_true", help="check the configuration and exit")
    parser.add_argument("--doctor", action="store_true", help="probe what the sandbox can do on this machine")
    parser.add_argument("--json", action="store_true", help="with --doctor: print JSON")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="listen on any address, even without authentication or TLS, whatever the sandbox lacks: for trusted nets",
    )
    parser.add_argument("--version", action="version", version=f"stokerd {VERSION}")
    return parser


def read_config(args: argparse.Namespace) -> Config:
    """The configuration from file, environment and options, the last winning.

    Raises:
      ConfigError, OSError: it cannot be used.
    """
    text = args.config.read_text(encoding="utf-8") if args.config else ""
    fn, warnings = fn_settings.translate(os.environ, lambda path: Path(path).read_text(encoding="utf-8"))
    for warning in warnings:
        print(f"stokerd: {warning}", file=sys.stderr)
    environ = {**fn, **os.environ}
    config = load(text, source=str(args.config or "configuration"), environ=environ, data=args.data)
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd.exec(5)
    if state and args.data is None and config.data == Config().data:
        config = replace(config, data=Path(state))
    http = config.http
    if args.listen:
        http = replace(http, listen=args.listen)
    if args.socket:
        http = replace(http, socket=args.socket)
    if args.insecure:
        http = replace(http, insecure=True)
    return replace(config, data=config.data.expanduser().absolute(), http=http)


def check_exposure(config: Config) -> None:
    """Beyond loopback everybody must say who he is, over TLS; unless told otherwise in so many words.

    Raises:
      ConfigError: it is not so.
    """
    if why := exposure(config, config.http.listen.rpartition(":")[0].strip("[]")):
        raise ConfigError(f"http.listen: {why}")


if __name__ == "__main__":
    sys.exit(main())
