from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.base.errors import UsageError
from perdure.base.limits import Limits, Rate
from perdure.base.line import Line, Waiting

KEYS = "abcd"
PRIORITIES = (-1, 0, 7)

limits = st.builds(
    Limits,
    concurrency=st.none() | st.integers(1, 4),
    per_key=st.none() | st.integers(1, 3),
    rate=st.none() | st.builds(Rate, st.integers(1, 4), st.sampled_from([0.5, 10.0])),
    backlog=st.none() | st.integers(0, 6),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(KEYS), st.sampled_from(PRIORITIES)),
        st.tuples(st.just("leave"), st.integers(0, 100), st.none()),
        st.tuples(st.just("withdraw"), st.integers(0, 100), st.none()),
        st.tuples(st.just("wait"), st.floats(0, 6), st.none()),
        st.tuples(st.just("change"), limits, st.none()),
    ),
    max_size=80,
)


class Club:
    """A line with a record of who is in and who waits, kept in the most simple way."""

    def __init__(self, limits: Limits) -> None:
        self.line = Line(limits)
        self.now = 1_700_000_000.25
        self.number = 0
        self.inside: list[tuple[str, Waiting]] = []
        self.waiting: list[tuple[str, Waiting]] = []
        self.let_in_at: list[float] = []

    def arrive(self, key: str, priority: int) -> str:
        self.number += 1
        ticket = Waiting(self.number, priority, key)
        answer = self.line.arrive(key, ticket, self.now, may_refuse=True)
        if answer == "granted":
            self._let_in(key, ticket)
        elif answer == "waits":
            self.waiting.append((key, ticket))
        return answer

    def leave(self, place: int) -> None:
        if self.inside:
            key, _ = self.inside.pop(place % len(self.inside))
            self.line.leave(key)

    def withdraw(self, place: int) -> None:
        if self.waiting:
            key, ticket = self.waiting.pop(place % len(self.waiting))
            self.line.withdraw(key, ticket.number)

    def settle(self) -> list[tuple[str, Waiting]]:
        granted = [(ticket.holder, ticket) for ticket in self.line.settle(self.now)]
        for key, ticket in granted:
            self.waiting.remove((key, ticket))
            self._let_in(key, ticket)
        return granted

    def _let_in(self, key: str, ticket: Waiting) -> None:
        self.inside.append((key, ticket))
        self.let_in_at.append(self.now)

    def step(self, what: str, which: object, other: object) -> None:
        if what == "arrive":
            self.arrive(which, other)
        elif what == "wait":
            self.now += which
        elif what == "change":
            self.line.change(which)
        else:
            {"leave": self.leave, "withdraw": self.withdraw}[what](which)
        self.settle()


@given(limits, steps)
def test_never_more_are_in_than_the_limit_says_in_all_and_for_each_key(given, moves):
    club = Club(given)
    before, before_keys = 0, Counter()
    for move in moves:
        club.step(*move)
        keys = Counter(key for key, _ in club.inside)
        now = club.line.limits
        assert now.concurrency is None or len(club.inside) <= max(now.concurrency, before)
        assert club.line.running == len(club.inside)
        assert club.line.waiting == len(club.waiting)
        for key in KEYS:
            assert club.line.place(key).running == keys[key]
            assert now.per_key is None or keys[key] <= max(now.per_key, before_keys[key])
        before, before_keys = len(club.inside), keys


@given(st.builds(Rate, st.integers(1, 4), st.sampled_from([0.5, 10.0])), st.lists(st.floats(0, 3), max_size=80))
def test_no_period_holds_more_than_the_rate_wherever_it_begins(rate, pauses):
    club = Club(Limits(rate=rate))
    for pause in pauses:
        club.arrive("a", 0)
        club.now += pause
        club.settle()
    times = club.let_in_at
    for begin in times:
        assert sum(begin <= at < begin + rate.per for at in times) <= rate.count


@given(limits, steps)
def test_nobody_waits_who_could_come_in(given, moves):
    club = Club(given)
    for move in moves:
        club.step(*move)
        line, full = club.line, Counter(key for key, _ in club.inside)
        free = line.limits.concurrency is None or line.running < line.limits.concurrency
        able = [k for k, _ in club.waiting if line.limits.per_key is None or full[k] < line.limits.per_key]
        if free and able:
            assert line.wakes_at(club.now) is not None


@given(limits, steps)
def test_everybody_comes_in_once_the_others_have_left(given, moves):
    club = Club(given)
    for move in moves:
        club.step(*move)
    for _ in range(1000):
        if not club.waiting:
            return
        club.leave(0)
        club.now = max(club.now, club.line.wakes_at(club.now) or club.now)
        club.settle()
    raise AssertionError(f"still waiting: {club.waiting}")


@given(limits, steps)
def test_within_a_key_the_higher_priority_and_then_the_earlier_is_first(given, moves):
    club = Club(given)
    for move in moves:
        club.step(*move[:3]) if move[0] != "leave" else club.leave(move[1])
        before = list(club.waiting)
        granted = club.settle()
        for key in KEYS:
            order = sorted((t for k, t in before if k == key), key=lambda t: (-t.priority, t.number))
            assert [t for k, t in granted if k == key] == order[: sum(k == key for k, _ in granted)]


@given(st.integers(1, 3), st.none() | st.integers(1, 2), steps)
def test_a_higher_priority_goes_before_every_lower_one_that_its_keys_limit_lets_in(slots, per_key, moves):
    club = Club(Limits(concurrency=slots, per_key=per_key))
    for what, which, other in moves:
        if what == "leave":
            full = Counter(key for key, _ in club.inside)
            club.leave(which)
            before = list(club.waiting)
            for key, ticket in club.settle():
                better = [k for k, t in before if t.priority > ticket.priority and (k, t) in club.waiting]
                assert all(per_key is not None and full[k] >= per_key for k in better), (key, ticket, better)
        elif what == "arrive":
            club.arrive(which, other)


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 12)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 100), st.none() | st.sampled_from(KEYS)), min_size=20, max_size=100),
)
def test_a_key_is_passed_by_each_other_one_twice_at_most(slots, crowds, moves):
    club = Club(Limits(concurrency=slots))
    for key, count in crowds:
        for _ in range(count):
            club.arrive(key, 0)
    passed: dict[str, Counter[str]] = {}
    for place, newcomer in moves:
        if newcomer is not None:
            club.arrive(newcomer, 0)
        fronts = {key for key, _ in club.waiting}
        club.leave(place)
        for key, _ in club.settle():
            passed.pop(key, None)
            for other in fronts - {key}:
                count = passed.setdefault(other, Counter())
                count[key] += 1
                assert count[key] <= 2, f"{key} passed {other} three times"


def test_ten_thousand_of_one_key_do_not_delay_ten_of_another():
    club = Club(Limits(concurrency=5))
    for _ in range(10_000):
        club.arrive("a", 0)
    for _ in range(10):
        club.arrive("b", 0)
    order = deque(maxlen=30)
    while any(key == "b" for key, _ in club.waiting[-10:]):
        club.leave(0)
        order.extend(key for key, _ in club.settle())
    assert len(order) <= 20


def test_who_comes_one_at_a_time_does_not_overtake_those_who_wait():
    club = Club(Limits(concurrency=1))
    for _ in range(5):
        club.arrive("patient", 0)
    order = []
    for _ in range(8):
        if not any(key == "pushy" for key, _ in club.waiting):
            club.arrive("pushy", 0)
        club.leave(0)
        order.extend(key for key, _ in club.settle())
    assert order[:6] == ["pushy", "patient", "pushy", "patient", "pushy", "patient"]


def test_what_a_key_had_of_a_higher_priority_does_not_set_it_back_among_the_lower_ones():
    club = Club(Limits(concurrency=1))
    for priority, count in ((5, 100), (0, 50)):
        for _ in range(count):
            club.arrive("much" if priority else "other", priority)
    club.arrive("much", 0)
    order = []
    while any(key == "much" for key, _ in club.waiting):
        club.leave(0)
        order.extend((key, ticket.priority) for key, ticket in club.settle())
    assert order.count(("other", 0)) <= 2


def test_a_key_that_falls_back_to_a_lower_priority_takes_its_turn_there():
    club = Club(Limits(concurrency=1))
    club.arrive("a", 0)
    for _ in range(10):
        club.arrive("b", 0)
        club.arrive("c", 0)
    order = []
    for _ in range(12):
        club.leave(0)
        order.extend(key for key, _ in club.settle())
    club.arrive("a", 5)
    club.arrive("a", 0)
    for _ in range(7):
        club.leave(0)
        order.extend(key for key, _ in club.settle())
    assert order[12] == "a"
    assert "a" in order[13:16]
    assert {order.count(key) for key in "bc"} <= {8, 9}


def test_a_full_backlog_refuses_until_somebody_has_come_in():
    club = Club(Limits(concurrency=1, backlog=2))
    assert [club.arrive("a", 0) for _ in range(4)] == ["granted", "waits", "waits", "refused"]
    club.leave(0)
    club.settle()
    assert club.arrive("a", 0) == "waits"


def test_without_a_backlog_whoever_cannot_come_in_at_once_is_refused():
    club = Club(Limits(concurrency=1, backlog=0))
    assert [club.arrive("a", 0) for _ in range(2)] == ["granted", "refused"]


def test_those_who_wait_for_the_rate_come_in_when_it_says_so():
    club = Club(Limits(rate=Rate(2, per=60.0)))
    assert [club.arrive("a", 0) for _ in range(3)] == ["granted", "granted", "waits"]
    at = club.line.wakes_at(club.now)
    assert club.now + 60 < at <= club.now + 61
    club.now = at - 0.001
    assert club.settle() == []
    club.now = at
    assert len(club.settle()) == 1


def test_a_clock_that_is_put_back_delays_by_a_period_and_lets_in_nobody_too_many():
    club = Club(Limits(rate=Rate(2, per=60.0)))
    for _ in range(4):
        club.arrive("a", 0)
    club.now -= 3600
    assert club.settle() == []
    at = club.line.wakes_at(club.now)
    assert club.now + 60 < at <= club.now + 61
    club.now = at
    assert len(club.settle()) == 2


def test_a_removed_limit_lets_everybody_in():
    club = Club(Limits(concurrency=1))
    for _ in range(5):
        club.arrive("a", 0)
    club.line.change(Limits())
    assert len(club.settle()) == 4


def test_of_a_place_that_is_loaded_in_part_only_what_is_certain_is_let_in():
    line = Line(Limits(concurrency=5), waiting=4)
    place = line.place("a")
    place.waiting = 4
    place.load([Waiting(1), Waiting(2)])
    line.seat(place)
    assert line.arrive("a", Waiting(9), 1.0) == "waits"
    assert [ticket.number for ticket in line.settle(1.0)] == [1, 2]
    assert line.is_short
    assert (place.waiting, line.waiting, line.running) == (3, 3, 2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Limits(concurrency=0), r"Limits\.concurrency is 0"),
        (lambda: Limits(per_key=True), r"Limits\.per_key is True"),
        (lambda: Limits(per_key=1.5), r"Limits\.per_key is 1\.5"),
        (lambda: Limits(backlog=-1), r"Limits\.backlog is -1"),
        (lambda: Rate(0), r"Rate\.count is 0"),
        (lambda: Rate(1, per=0), r"Rate\.per is 0"),
        (lambda: Rate(1, per=float("inf")), r"Rate\.per is inf"),
    ],
)
def test_numbers_that_make_no_limit_are_refused(make: Callable[[], object], says: str):
    with pytest.raises(UsageError, match=says):
        make()
