"""What is met and what is not."""

from __future__ import annotations

from typing import Any

from scripts.benchmarks.targets import TARGETS, Verdict, verdicts


def latency(**seconds: float) -> dict[str, Any]:
    """Figures of a run in which each call took the same time; keys as `name__shell`, with _ for a space."""
    kinds = []
    for key, value in seconds.items():
        name, _, shell = key.partition("__")
        shown = "sandbox.run" if name == "sandbox_run" else name.replace("_", " ")
        kinds.append({"name": shown, "shell": shell, "group": "ours", "seconds": [[value] * 4] * 5})
    return {"latency": {"command": "true", "rounds": 5, "kinds": kinds}}


def verdict(figures: dict[str, Any], start: str) -> Verdict:
    (found,) = [each for each in verdicts(figures) if each.target.name.startswith(start)]
    return found


def test_nothing_is_met_where_nothing_was_measured() -> None:
    for each in verdicts({}):
        assert each.met is None
        assert each.row()[-2:] == ["–", "not measured"]


def test_a_figure_on_the_limit_is_met_in_both_senses() -> None:
    figures = latency(sandbox_run__sh=0.001, **{"SWE-ReX_execute__sh": 0.00125}, docker_exec__sh=0.020)
    assert verdict(figures, "`sandbox.run` p50 over SWE-ReX `execute`, sh").met is True
    assert verdict(figures, "`docker exec` p50 over").met is True


def test_a_figure_beyond_the_limit_is_not_met_in_both_senses() -> None:
    figures = latency(sandbox_run__sh=0.00101, **{"SWE-ReX_execute__sh": 0.00125}, docker_exec__sh=0.020)
    rex, engine = verdict(figures, "`sandbox.run` p50 over SWE-ReX `execute`, sh"), verdict(figures, "`docker exec` p50 over")
    assert (rex.met, engine.met) == (False, False)
    assert rex.row()[1:] == ["at most 0.800", "0.808", "**not met**"]


def test_each_shell_is_compared_with_itself() -> None:
    figures = latency(sandbox_run__sh=0.001, sandbox_run__bash=0.009, **{"SWE-ReX_execute__sh": 0.002, "SWE-ReX_execute__bash": 0.010})
    assert verdict(figures, "`sandbox.run` p50 over SWE-ReX `execute`, sh").met is True
    assert verdict(figures, "`sandbox.run` p50 over SWE-ReX `execute`, bash").met is False


def test_reason_of_a_target_that_is_not_met_names_the_floors_of_its_shell() -> None:
    figures = latency(
        sandbox_run__sh=0.002, docker_exec__sh=0.010, bare_HTTP_round_trip__=0.0009, **{"fork+exec_in_the_container__sh": 0.0007}
    )
    said = verdict(figures, "`docker exec` p50 over").reason(figures)
    assert said == "p50: `sandbox.run` 2.00 ms, a bare HTTP round trip alone 900 µs, fork+exec of sh alone 700 µs."
    met = latency(sandbox_run__sh=0.0002, docker_exec__sh=0.010)
    assert verdict(met, "`docker exec` p50 over").reason(met) == ""


def test_throughput_is_judged_at_16_clients_with_shared_and_with_own_containers() -> None:
    def rate(value: float) -> dict[str, Any]:
        return {"16": [{"per_s": value}] * 3, "1": [{"per_s": 1.0}]}

    figures = {
        "throughput": {
            "together": {"sandbox.run": rate(600.0), "SWE-ReX execute": rate(500.0), "docker exec": rate(31.0)},
            "apart": {"sandbox.run": rate(500.0), "SWE-ReX execute": rate(500.0)},
        }
    }
    met = {each.target.name.partition("over ")[2]: each.met for each in verdicts(figures) if each.target.name.startswith("16 clients")}
    assert met == {"`docker exec`": False, "SWE-ReX `execute`": True, "SWE-ReX `execute`, a container for each": False}


def test_output_files_sandboxes_and_history_are_judged_by_their_median() -> None:
    figures: dict[str, Any] = {
        "output": {
            "speed": {"spool, all kept": {"1024": [0.9e9, 1.2e9, 1.3e9]}, "raw reader": {"1024": [400e6, 450e6, 900e6]}},
            "growth_bytes": [1 << 20, 2 << 20, 3 << 20],
        },
        "transfers": {"speed": {"upload": {"1024": [600e6]}, "download": {"64": [900e6]}, "docker cp, in": {}}},
        "sandboxes": {"create": {"sandbox": [0.30, 0.36], "docker run -d": [0.30, 0.30]}},
        "history": {"pasts": [0, 10, 1000], "seconds": {"0": [[1.0]], "10": [[9.0]], "1000": [[1.2]]}},
    }
    met = {each.target.name: each.met for each in verdicts(figures) if each.met is not None}
    assert met == {
        "1 GiB of output into the spool, all kept": True,
        "1 GiB of output to a raw reader": False,
        "growth of the server's memory with 1 GiB of output": True,
        "a file of 1 GiB into a sandbox": True,
        "creating a sandbox over `docker run -d`": True,
        "latency with the longest history over that with none": False,
    }


def test_targets_have_names_of_their_own() -> None:
    assert len({target.name for target in TARGETS}) == len(TARGETS)
