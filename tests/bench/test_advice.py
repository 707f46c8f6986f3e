"""What follows from cells: the model that is recommended, and the bounds of `--fail-if`, both from made-up numbers."""

from __future__ import annotations

from typing import Any

import pytest

from pronghorn.bench.advice import Advice, recommend
from pronghorn.bench.bounds import broken, parse
from pronghorn.bench.findings import Findings
from pronghorn.bench.latencies import Latencies
from pronghorn.bench.measuring import Plan
from pronghorn.bench.results import Cell, Round
from pronghorn.bench.servers import Contender
from pronghorn.errors import BadSetting

WRONG = "p99 p99>20 p98>1ms throughput>5ms errors>0s nobody:p99>1ms p99>-1ms >5".split()


def a_round(rate: float = 1000.0, p99: float = 0.001, **more: Any) -> Round:
    latencies = Latencies()
    latencies.note(int(p99 * 1e9))
    return Round(rate, 1000, latencies, **{"cpu": 10e-6, "memory": 1000.0, **more})


def advised(*rounds: tuple[str, Round], clients: int = 64) -> Advice:
    cells = [Cell(name, clients, [each]) for name, each in rounds]
    return recommend(cells, [name for name, _ in rounds])


def test_throughput_first_then_p99_then_cpu_then_memory() -> None:
    good = a_round()
    assert advised(("slow", a_round(rate=800.0, cpu=1e-6)), ("good", good)).model == "good"
    assert advised(("late", a_round(p99=0.01, cpu=1e-6)), ("good", good)).model == "good"
    assert advised(("dear", a_round(cpu=12e-6, memory=1.0)), ("good", good)).model == "good"
    assert advised(("large", a_round(memory=9000.0)), ("good", good)).model == "good"
    assert advised(("first", good), ("second", good)).model == "first"
    assert advised(("near", a_round(rate=950.0, p99=0.0015, cpu=5e-6)), ("good", good)).model == "near"


def test_the_cell_with_most_clients_decides() -> None:
    cells = [Cell("a", 1, [a_round(9000.0)]), Cell("a", 64, [a_round(100.0)])]
    cells += [Cell("b", 1, [a_round(100.0)]), Cell("b", 64, [a_round(9000.0)])]
    assert recommend(cells, ["a", "b"]).model == "b"


def test_what_errs_starves_or_falls_behind_is_never_recommended() -> None:
    fast = {"rate": 9000.0, "cpu": 1e-6}
    for bad in ({"errors": {"reset": (1, "")}}, {"unserved": 1}, {"behind": 0.5, "unanswered": 9}):
        found = advised(("bad", a_round(**fast, **bad)), ("good", a_round()))
        assert found.model == "good" and "bad" in found.ruled_out
    few = [Cell("bad", 1, [a_round(errors={"reset": (1, "")})]), Cell("bad", 64, [a_round(**fast)])]
    assert recommend([*few, Cell("good", 64, [a_round()])], ["bad", "good"]).model == "good"
    none = advised(("bad", a_round(unserved=3)))
    assert none.model == "" and "3 of 64 clients without a reply" in none.sentence


def test_with_few_clients_no_server_keeps_up_with_a_rate() -> None:
    few = a_round(rate=190.0, behind=0.5, unanswered=900)
    cells = [
        Cell("thread", 1, [few]),
        Cell("thread", 64, [a_round()]),
        Cell("epoll", 1, [few]),
        Cell("epoll", 64, [few]),
    ]
    found = recommend(cells, ["thread", "epoll"])
    assert found.model == "thread" and found.ruled_out == {"epoll": "fell behind the rate by 500 ms with 64 clients"}


def test_a_rate_that_the_load_processes_cannot_reach_is_not_put_down_to_a_server() -> None:
    found = advised(("epoll", a_round(behind=0.5, unanswered=900, limit="load")))
    assert found.model == "" and "epoll could not be asked at the rate" in found.sentence


def test_what_the_load_processes_sent_late_is_held_against_no_server() -> None:
    late = Latencies()
    for seconds in [0.0002] * 98 + [0.007] * 2:
        late.note(int(seconds * 1e9))
    epoll = Round(1000.0, 1000, late, cpu=10e-6, late=0.0068)
    found = advised(("epoll", epoll), ("fork", a_round(p99=0.0003, cpu=90e-6)))
    assert found.sentence.startswith("Recommended: epoll, with the least CPU: 1,000 messages a second, p99 7")
    epoll.late = 0.0
    assert advised(("epoll", epoll), ("fork", a_round(p99=0.0003, cpu=90e-6))).model == "fork"


def test_what_was_interrupted_is_judged_by_the_row_that_all_have() -> None:
    cells = [Cell("slow", 1, [a_round(100.0)]), Cell("slow", 64, [a_round(100.0)]), Cell("good", 1, [a_round()])]
    found = recommend(cells, ["slow", "good"])
    assert found.model == "good" and "with 1 client" in found.sentence


def test_several_reasons_are_one_sentence() -> None:
    found = advised(("slow", a_round(rate=100.0)), ("dear", a_round(cpu=90e-6)), ("good", a_round()))
    assert found.sentence.startswith("Recommended: good, with throughput within a tenth of the best and the least CPU:")


def test_notes_say_what_few_messages_and_an_idle_server_mean() -> None:
    late = a_round(behind=0.5, unanswered=900)
    few, many = Cell("a", 1, [late]), Cell("a", 64, [a_round()])
    for _ in range(1000):
        many.rounds[0].latencies.note(1000)
    plan = Plan(contenders=(Contender("a"),), clients=(1, 64), rate=2000.0)
    found = Findings(handler="a", command="", plan=plan, machine={}, began="", cells=[few, many])
    told = " ".join(found.notes())
    assert "In 1 of 2 rows a round had fewer than 1,000 messages: p99.9 is the longest" in told
    assert "processor was not the limit: its handler waits, or --clients are too few" in told
    few.rounds[0].limit = "server"
    assert "was not the limit" not in " ".join(found.notes())


def test_a_sentence_has_its_reason_and_says_where_the_load_was_the_limit() -> None:
    found = advised(("epoll", a_round(limit="load")), ("thread", a_round(limit="load", cpu=20e-6)))
    assert found.sentence.startswith("Recommended: epoll, with the least CPU: 1,000 messages a second, p99 1.00 ms")
    assert "the load processes were the limit" in found.sentence


def test_other_servers_are_not_recommended() -> None:
    cells = [Cell("other", 64, [a_round(9000.0)]), Cell("epoll", 64, [a_round()])]
    assert recommend(cells, ["epoll"]).model == "epoll"


def test_bounds_are_broken_by_cells_and_name_them() -> None:
    cells = [Cell("epoll", 8, [a_round()]), Cell("thread", 8, [a_round(p99=0.03, cpu=30e-6), a_round(p99=0.02)])]

    def breaks(text: str) -> list[str]:
        return broken([parse(text, ["epoll", "thread"])], cells)

    assert breaks("p99>20ms") == ["p99>20ms: thread with 8 clients has p99 25.0 ms"]  # the median of both rounds
    assert breaks("epoll: p99 > 20 ms") == []
    assert breaks("cpu>=15us") and not breaks("cpu>25us")
    assert breaks("throughput<1k/s") == [] and len(breaks("throughput<=1000")) == 2
    assert breaks("errors>0") == [] and breaks("memory>1KiB") == []
    cells[0].rounds[0].errors = {"reset": (2, "")}
    assert breaks("errors>0") == ["errors>0: epoll with 8 clients has errors 2"]


def test_a_bound_that_cannot_be_judged_is_broken() -> None:
    bound = parse("memory>1MB", ["epoll"])
    assert broken([bound], [Cell("epoll", 1, [a_round(memory=None)])]) == [
        "memory>1MB: cannot be judged, memory was not measured"
    ]
    assert broken([bound], [])


@pytest.mark.parametrize("text", WRONG)
def test_a_bound_that_is_none(text: str) -> None:
    with pytest.raises(BadSetting):
        parse(text, ["epoll"])
