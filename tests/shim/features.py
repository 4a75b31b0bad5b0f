"""Every feature of Fn that a user can see, and what became of it here. ``python -m tests.shim.features`` prints the page.

A row that says *works* names the test that shows it. ``test_features.py`` checks that the list is whole, that the tests
exist, and that the page is what this prints.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.config import fn_settings

WORKS, DIFFERS, NONE = "works", "differs", "not applicable"
LIVE = "tests/golden/test_live.py::test_a_running_daemon_answers_every_recorded_exchange_as_fn_did"
DEPLOY = "tests/shim/test_engine.py::test_a_recorded_deploy"
CALLS = "tests/shim/test_engine.py::test_every_distinct_command_line_is_answered"
GATEWAY = "tests/http/test_gateway.py::"
SYSTEM = "tests/system/test_calls.py::"
ORACLE = "tests/fdk/test_oracle_handlers.py::test_a_function_answers_as_under_the_official_fdk"
PROCESS = "tests/fdk/test_oracle_process.py::"
SETTINGS = "tests/shim/test_fn_settings.py::"
REFUSED = SETTINGS + "test_what_would_not_happen_is_refused"
IGNORED = SETTINGS + "test_what_has_no_effect_is_told"
FAILING = SYSTEM + "test_a_failing_call_gets_its_documented_error_and_the_next_call_works"
FN = "the `fn` command's own; it never asks the server"
FN_SENDS = "the `fn` command's own; what it sends is answered as recorded"
ONE_NODE = "one node does all; there is no cluster"


@dataclass(frozen=True)
class Feature:
    number: int
    name: str
    verdict: str
    how: str = ""
    test: str = ""


def _f(number: int, name: str, verdict: str, how: str = "", test: str = "") -> Feature:
    return Feature(number, name, verdict, how, test)


FEATURES: dict[str, list[Feature]] = {
    "Control plane": [
        _f(1, "Ping: GET /", WORKS, "", LIVE),
        _f(2, "GET /version", WORKS, "with a second member, our own version", LIVE),
        _f(3, "Apps: create, read, update, delete", WORKS, "", LIVE),
        _f(4, "Functions: create, read, update, delete", WORKS, "a deploy is checked before it counts", LIVE),
        _f(5, "HTTP triggers: create, read, update, delete", WORKS, "", LIVE),
        _f(6, "Deleting an app takes its functions and triggers along", WORKS, "", "tests/store/test_records.py::test_deleting_an_app_takes_everything_of_it_and_nothing_else"),
        _f(7, "Deleting a function takes its triggers along", WORKS, "", "tests/store/test_records.py::test_deleting_a_function_takes_its_versions_and_triggers"),
        _f(8, "Configuration of an app", WORKS, "", "tests/system/test_deploy.py::test_app_and_function_configuration_reach_the_worker_and_the_function_wins"),
        _f(9, "Configuration of a function, which wins", WORKS, "", "tests/system/test_deploy.py::test_app_and_function_configuration_reach_the_worker_and_the_function_wins"),
        _f(10, "PUT merges; an empty value removes", WORKS, "", LIVE),
        _f(11, "Annotations with limits on app, function, trigger", WORKS, "", "tests/control/test_hostile.py::test_what_breaks_a_rule_is_told_so"),
        _f(12, "Annotations are merged and removed", WORKS, "", LIVE),
        _f(13, "Paging by cursor and per_page", WORKS, "", "tests/control/test_routing.py::test_paging_sees_every_item_once"),
        _f(14, "Filter by exact name", WORKS, "", LIVE),
        _f(15, "Filter of triggers by function", WORKS, "", LIVE),
        _f(16, "Errors as JSON with codes", WORKS, "with `code` and `detail` besides", LIVE),
        _f(17, "404 and 405 as JSON", WORKS, "", "tests/control/test_routing.py::test_a_known_path_with_another_method"),
        _f(18, "Defaults: 128 MB, 30 s, 30 s idle", WORKS, "", LIVE),
        _f(19, "Ranges are checked", WORKS, "", "tests/control/test_hostile.py::test_the_largest_that_is_allowed"),
        _f(20, "Architecture (shape) of an app", DIFFERS, "kept, checked and shown; functions run on this machine whatever it says", LIVE),
        _f(21, "syslog_url of an app", WORKS, "checked, kept and shown; for the sending see 74", LIVE),
        _f(22, "Annotations with the endpoints", WORKS, "made at each read, never stored", LIVE),
        _f(23, "Base of public URLs (FN_PUBLIC_LB_URL)", WORKS, "also `http.public_url`", SETTINGS + "test_a_daemon_with_fns_settings"),
        _f(24, "SQLite", WORKS, "in the data directory", "tests/store/test_crash.py::test_acknowledged_writes_survive_fifty_kills"),
        _f(25, "PostgreSQL", NONE, "one node needs no other database; FN_DB_URL is refused", REFUSED),
        _f(26, "MySQL", NONE, "as for PostgreSQL", REFUSED),
        _f(27, "Migrations at start", WORKS, "", "tests/store/test_database.py::test_migrations_run_once"),
        _f(28, "CORS", NONE, "web pages of other origins may not call the API: that is a protection here; FN_API_CORS_* are refused", REFUSED),
        _f(29, "Settings by environment and *_FILE", WORKS, "those that mean something here; the others are named (below)", SETTINGS + "test_a_value_from_a_file"),
        _f(30, "A request id of the client in the logs (FN_RID_HEADER)", NONE, "calls have an id of their own; refused by name", REFUSED),
        _f(31, "Bearer token (FN_TOKEN) is sent and not looked at", DIFFERS, "looked at where the daemon authenticates (docs/how-to/security.md)", LIVE),
    ],
    "Data plane": [
        _f(32, "POST /invoke", WORKS, "", LIVE),
        _f(33, "HTTP triggers of any method", WORKS, "", LIVE),
        _f(34, "Headers, URL and method reach the function", WORKS, "", GATEWAY + "test_every_header_on_the_functions_wire_is_fns"),
        _f(35, "The function sets status and headers through a trigger", WORKS, "", GATEWAY + "test_a_triggers_status_is_the_functions"),
        _f(36, "Call ids", WORKS, "", LIVE),
        _f(37, "Deadlines", WORKS, "", LIVE),
        _f(38, "Detached calls: 202", WORKS, "durable, on a single node, too", "tests/detached/test_accept.py::test_a_detached_call_is_answered_at_once_and_runs_once"),
        _f(39, "Hop-by-hop headers are dropped", WORKS, "", GATEWAY + "test_hop_by_hop_headers_do_not_reach_the_function"),
        _f(40, "Limit of the request's size: 413", WORKS, "6 MiB by default; FN_MAX_REQUEST_SIZE", SETTINGS + "test_a_daemon_with_fns_settings"),
        _f(41, "Limit of the response's size: 502", WORKS, "6 MiB by default; FN_MAX_RESPONSE_SIZE", FAILING),
        _f(42, "Limit of header sizes", WORKS, "", "tests/http/test_parser.py::test_a_limit_is_the_last_size_that_passes"),
        _f(43, "503 with Retry-After", WORKS, "429 when a function's own queue is full", GATEWAY + "test_errors_of_detached_calls_and_of_full_queues_are_told"),
        _f(44, "Timeout of a function", WORKS, "", "tests/core/test_calls.py::test_a_call_that_overruns_its_timeout_dies_with_its_instance"),
        _f(45, "Timeout of a start", WORKS, "told at the deploy", "tests/system/test_deploy.py::test_a_module_that_hangs_at_import_is_given_up"),
        _f(46, "A client that leaves stops its call", WORKS, "", SYSTEM + "test_a_client_that_leaves_takes_its_call_with_it"),
        _f(47, "Binary bodies", WORKS, "", "tests/golden/test_live.py::test_what_the_recording_elides_is_answered_whole"),
        _f(48, "Chunked requests", WORKS, "", "tests/http/test_frontdoor.py::test_six_megabytes_go_in_and_out"),
        _f(49, "Replies are buffered, not streamed", WORKS, "", LIVE),
        _f(50, "Hot containers", WORKS, "warm instances, forked from a template", SYSTEM + "test_a_warm_instance_is_used_again"),
        _f(51, "Idle containers are frozen", DIFFERS, "only where `limits.freeze_s` or FN_FREEZE_IDLE_MSECS says so, and programs only: an idle native instance costs 2 MB and no time", "tests/exec/test_freeze.py::test_an_idle_program_is_stopped_and_answers_its_next_call"),
        _f(52, "Idle timeout of a function", WORKS, "", "tests/core/test_calls.py::test_idle_instances_go_after_the_idle_timeout_of_their_function"),
        _f(53, "One container for each concurrent call", WORKS, "", SYSTEM + "test_concurrent_calls_run_in_instances_of_their_own"),
        _f(54, "Eviction when memory is short", WORKS, "", "tests/core/test_memory.py::test_then_idle_instances_of_others_go_oldest_first"),
        _f(55, "Refusal without waiting (FN_ENABLE_NB_RESOURCE_TRACKER)", DIFFERS, "calls wait in a bounded queue (`limits.queue_max`, `limits.queue_s`)", "tests/core/test_calls.py::test_the_queue_has_a_limit"),
        _f(56, "Memory limit of a function", WORKS, "children included; the caller is told", SYSTEM + "test_out_of_memory_names_limit_and_peak"),
        _f(57, "Memory budget of the node", WORKS, "`limits.memory_mib`, FN_MAX_TOTAL_MEMORY_BYTES", "tests/core/test_memory.py::test_memory_is_given_back_when_an_instance_is_gone_not_before"),
        _f(58, "Limits of processes, files, locks, signals", DIFFERS, "processes and files by setting (FN_MAX_PIDS, FN_MAX_OPEN_FILES), the others are fixed by the sandbox", SETTINGS + "test_every_honoured_setting_arrives"),
        _f(59, "Read-only root", DIFFERS, "decided by what the machine allows (docs/explanation/isolation.md)", "tests/hostile/test_attacks.py::test_attack"),
        _f(60, "/tmp can be written", WORKS, "", LIVE),
        _f(61, "Not root", DIFFERS, "decided by what the machine allows (docs/explanation/isolation.md)", "tests/hostile/test_attacks.py::test_attack"),
        _f(62, "Capabilities are dropped", DIFFERS, "decided by what the machine allows (docs/explanation/isolation.md)", "tests/hostile/test_attacks.py::test_attack"),
        _f(63, "A change of configuration rolls to new containers", WORKS, "", "tests/control/test_registry.py::test_an_apps_config_reconfigures_its_functions_and_nothing_else_does"),
        _f(64, "Images are pulled, with credentials", NONE, "bundles are pushed; there is no registry", "tests/shim/test_engine.py::test_version_pull_inspect"),
        _f(65, "Unused images are removed", DIFFERS, "unused bundles are", "tests/system/test_residue.py::test_unused_bundles_are_removed"),
        _f(66, "Images from a file at start", NONE, "`stoker push FILE.zip NAME:VERSION` at any time", IGNORED),
        _f(67, "Choice of docker networks", NONE, "the network is a setting of the application; FN_DOCKER_NETWORKS is refused", REFUSED),
        _f(68, "Pool of networks made ahead", NONE, "a template is forked in 3 ms", IGNORED),
        _f(69, "Prometheus metrics", DIFFERS, "other names (docs/reference/metrics.md)", "tests/mechanisms/test_metrics.py::test_every_metric_is_in_the_reference_and_the_other_way_round"),
        _f(70, "Zipkin", DIFFERS, "FN_ZIPKIN_URL is honoured; other span names (docs/how-to/tracing.md)", "tests/detached/test_tracing.py::test_b3_a_trigger_a_failure_and_a_detached_call"),
        _f(71, "Jaeger", DIFFERS, "Jaeger takes what `tracing.endpoint` sends; FN_JAEGER_URL is refused", "tests/detached/test_tracing.py::test_otlp_is_what_the_official_schema_reads"),
        _f(72, "pprof, expvar", NONE, "those are Go's; numbers of the node are at /stoker/v1/stats", "tests/mechanisms/test_ops.py::test_stats"),
        _f(73, "Logs as text or JSON, levels, destinations", DIFFERS, "level and form as in Fn; the destination is standard error, FN_LOG_DEST is refused", SETTINGS + "test_every_honoured_setting_arrives"),
        _f(74, "The functions' output to syslog", DIFFERS, "output is kept here and read by `stoker logs`; it is not sent on yet", SYSTEM + "test_logs_are_tagged_with_their_call"),
        _f(75, "Graceful stop", WORKS, "", "tests/system/test_restart.py::test_running_calls_finish_and_new_ones_are_refused_while_draining"),
        _f(76, "Load balancer and pure runners", NONE, ONE_NODE + "; FN_NODE_TYPE other than full is refused", REFUSED),
        _f(77, "Placement of calls on runners", NONE, ONE_NODE, REFUSED),
        _f(78, "Extensions in Go", NONE, "the daemon is Python; its interfaces are HTTP", "tests/control/test_routing.py::test_every_route_has_a_permission_and_a_docstring_that_names_it"),
        _f(79, "Helm chart", NONE, "one Linux machine, with systemd units", "tests/system/test_restart.py::test_the_units_are_valid"),
        _f(80, "OCI: provisioned concurrency", WORKS, "by member, annotation or func.yaml", "tests/system/test_deploy.py::test_the_floor_is_filled_refilled_kept_and_restored"),
        _f(81, "OCI: destinations on success and failure", WORKS, "", "tests/detached/test_destinations.py::test_an_http_destination_gets_a_signed_record_and_is_tried_again"),
        _f(82, "OCI: dry run", DIFFERS, "`fn invoke --is-dry-run` only sends a header, which the function sees, as with Fn's server", LIVE),
        _f(83, "OCI: pre-built functions", NONE, "they are Oracle's images", LIVE),
        _f(84, "OCI: image signatures", NONE, "bundles are named by their SHA-256", "tests/system/test_deploy.py::test_the_same_bundle_is_stored_once_under_its_digest"),
    ],
    "The fn command": [
        _f(85, "init for 20 runtimes", DIFFERS, "`fn init` works as it is; Python, Node, Go, Java and any program that follows the contract run, with the interpreters that the machine has; Ruby and .NET by an entrypoint of one's own", "tests/shim/test_languages.py::test_a_program_from_init_to_its_answer"),
        _f(86, "init with an HTTP trigger", WORKS, "", DEPLOY),
        _f(87, "init from an image", NONE, "an init image is a container; refused by name", CALLS),
        _f(88, "build", WORKS, "through the stand-in: `stoker shim install`", CALLS),
        _f(89, "deploy with a raised version", WORKS, "also `stoker deploy --bump`", DEPLOY),
        _f(90, "deploy --all with app.yaml", WORKS, "also `stoker deploy --all`", DEPLOY),
        _f(91, "deploy --create-app", WORKS, "", DEPLOY),
        _f(92, "deploy --local", WORKS, "with or without: there is one place that bundles go to", DEPLOY),
        _f(93, "Local debug port", NONE, "it belongs to the container that `fn start` starts", IGNORED),
        _f(94, "--build-arg, --no-cache", WORKS, "", "tests/shim/test_dockerfiles.py::test_environment_and_arguments"),
        _f(95, "push", WORKS, "looks whether the daemon has it", CALLS),
        _f(96, "bump major, minor, patch", WORKS, "`stoker bump` keeps comments and unknown keys", "tests/shim/test_apps.py::test_bump"),
        _f(97, "watch with .fnignore", WORKS, "`stoker watch`; `fn watch` calls `fn deploy`", "tests/shim/test_apps.py::test_watch_deploys_what_is_saved"),
        _f(98, "invoke with all its options", WORKS, FN_SENDS, LIVE),
        _f(99, "create, list, inspect, update, delete", WORKS, "", LIVE),
        _f(100, "Property paths of inspect", WORKS, "also `stoker inspect`", "tests/cli/test_changes.py::test_inspect_prints_json_and_picks_properties"),
        _f(101, "config set, get, list, unset", WORKS, "", LIVE),
        _f(102, "Recursive delete", WORKS, "", LIVE),
        _f(103, "Lists as JSON", WORKS, FN_SENDS, "tests/cli/test_listing.py::test_ls_functions"),
        _f(104, "--from-json", NONE, FN, LIVE),
        _f(105, "Contexts and providers", WORKS, "`stoker` reads them, too; of the providers only `default`", "tests/shim/test_apps.py::test_contexts"),
        _f(106, "Registry", WORKS, "a prefix of the image's name; `stoker` uses it, too", "tests/shim/test_apps.py::test_both_commands_go_to_the_same_place"),
        _f(107, "start, stop, update server", WORKS, "start and stop a stokerd of your own", "tests/shim/test_engine.py::test_in_the_background"),
        _f(108, "build-server", NONE, "it makes a server image with Go extensions", "tests/shim/test_engine.py::test_what_fn_does_not_ask_is_refused"),
        _f(109, "migrate", WORKS, "older files are refused with the advice to run it", "tests/cli/test_funcfile.py::test_errors"),
        _f(110, "Completion of bash and zsh", WORKS, FN_SENDS + "; `stoker completion` has fish besides", "tests/cli/test_completion.py::test_bash_completes"),
        _f(111, "Version of client and server", WORKS, "", LIVE),
        _f(112, "docker or podman", WORKS, "the stand-in answers to both names", "tests/shim/test_engine.py::test_version_pull_inspect"),
        _f(113, "OCI: flags of its own", NONE, "for Oracle's providers; with the default one the command only warns", LIVE),
        _f(114, "OCI: list of pre-built functions", NONE, "Oracle's images", LIVE),
        _f(115, "OCI: change of compartment", NONE, "of the command's Oracle provider; see docs/reference/oci-compatibility.md", LIVE),
    ],
    "Python FDK": [
        _f(116, "handler(ctx, data), plain and async", WORKS, "", ORACLE),
        _f(117, "Response", WORKS, "", ORACLE),
        _f(118, "Any value returned", WORKS, "", ORACLE),
        _f(119, "Binary in and out", WORKS, "", ORACLE),
        _f(120, "Request headers", WORKS, "", ORACLE),
        _f(121, "Response headers and status", WORKS, "", ORACLE),
        _f(122, "Configuration", WORKS, "", LIVE),
        _f(123, "Ids, names, call id", WORKS, "names are set, too, where Fn's server gives None", LIVE),
        _f(124, "Deadline", WORKS, "", "tests/fdk/test_runner.py::test_call_id_and_deadline_stand_for_their_headers_and_the_last_of_a_repeated_header_counts"),
        _f(125, "Method and URL", WORKS, "", LIVE),
        _f(126, "Tracing context", WORKS, "", PROCESS + "test_tracing_is_told_to_the_handler"),
        _f(127, "Log lines with the call id", WORKS, "", "tests/fdk/test_oracle_handlers.py::test_a_call_logs_the_same_lines"),
        _f(128, "Log framing", WORKS, "", PROCESS + "test_log_frames"),
        _f(129, "An exception is a 502", WORKS, "with the traceback in the record of the call", FAILING),
        _f(130, "A TimeoutError is a 504", WORKS, "", "tests/fdk/test_runner.py::test_a_timeout_is_told_from_other_failures"),
        _f(131, "Fixtures for tests", WORKS, "", PROCESS + "test_fixtures_give_what_the_official_ones_give"),
        _f(132, "The fdk script", WORKS, "", "tests/fdk/test_install.py::test_it_installs_alone_and_its_commands_work"),
        _f(133, "Debugging over TCP", WORKS, "", "tests/fdk/test_server.py::test_tcp_debug_serves_on_a_port"),
        _f(134, "The module is imported at the first call", DIFFERS, "imported once, at the deploy, in a template that workers are forked from; an error is told there", "tests/system/test_deploy.py::test_a_version_that_cannot_start_fails_with_its_reason_and_the_old_one_goes_on"),
        _f(135, "uvloop if it is there", DIFFERS, "not unasked: import it in the function", PROCESS + "test_uvloop_is_not_imported_unasked"),
        _f(136, "Requests up to 100 MB", DIFFERS, "6 MiB by default (`http.body_bytes_max`), as on OCI", "tests/http/test_frontdoor.py::test_a_body_that_is_too_large_is_refused_before_it_is_sent"),
    ],
}  # fmt: skip


def page() -> str:
    """The reference page."""
    lines = [
        "# What of Fn works here",
        "",
        "Every feature of Fn that its users can see, numbered as in our notes on Fn 0.3.753 and its command 0.6.63.",
        "*Works*: as in Fn; the test shows it. *Differs*: how. *Not applicable*: why. Deliberate differences in single",
        "replies are in [differences from Fn](fn-differences.md), those of the FDK in",
        "[FDK compatibility](fdk-compatibility.md); every `fn` command is in [coming from Fn](../how-to/coming-from-fn.md).",
        "Printed from `tests/shim/features.py` by `python -m tests.shim.features`.",
    ]
    for title, features in FEATURES.items():
        lines += ["", f"## {title}", "", "| | Feature | Here | How or why | Test |", "|---|---|---|---|---|"]
        for feature in features:
            file, _, name = feature.test.partition("::")
            lines.append(f"| {feature.number} | {feature.name} | {feature.verdict} | {feature.how} | `{file}` {name} |")
    lines += [
        "",
        "## Settings of Fn's server",
        "",
        "`stokerd` reads them from its environment; each may be given as `NAME_FILE`. Stoker's own settings win.",
        "",
        "| Setting | Here |",
        "|---|---|",
    ]
    for name, honoured in fn_settings.HONOURED.items():
        lines.append(f"| `{name}` ({honoured.unit}) | honoured: `{honoured.setting}` |")
    for name, why in fn_settings.IGNORED.items():
        lines.append(f"| `{name}` | no effect, told in a warning: {why} |")
    for name, why in fn_settings.REFUSED.items():
        lines.append(f"| `{name}` | refused, the daemon does not start: {why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
