"""Who asks, and what each request does: planned by a seed, with something of everything."""

from __future__ import annotations

from collections import Counter

from holdfast_server.workload.behaviour import PERCENT_OF, WORK_S_MAX, Course, plan_request
from holdfast_server.workload.population import CREDITS, PREMIUM, plan_population
from holdfast_server.workload.trace import TraceRow, generate_trace

ACCOUNTS = [f"user{number}" for number in range(50)]


def test_percentages_add_up() -> None:
    assert set(PERCENT_OF) == set(Course)
    assert sum(PERCENT_OF.values()) == 100


def test_a_plan_is_the_same_for_the_same_seed() -> None:
    row = TraceRow(0, 1_000, 100)
    plans = [plan_request(number, row, ACCOUNTS, 1) for number in range(100)]
    assert plans == [plan_request(number, row, ACCOUNTS, 1) for number in range(100)]
    assert plans != [plan_request(number, row, ACCOUNTS, 2) for number in range(100)]


def test_every_course_is_taken_and_estimates_miss_on_both_sides() -> None:
    rows = generate_trace(2_000, 1)
    plans = [plan_request(number, row, ACCOUNTS, 1) for number, row in enumerate(rows)]
    courses = Counter(plan.course for plan in plans)
    assert set(courses) == set(Course)
    assert courses[Course.WORKS] > 1_000
    assert any(plan.estimate[CREDITS] < plan.actual[CREDITS] for plan in plans)
    assert any(plan.estimate[CREDITS] > plan.actual[CREDITS] for plan in plans)
    assert 0 < sum(PREMIUM in plan.estimate for plan in plans) < 300
    assert max(plan.work_s for plan in plans) <= WORK_S_MAX


def test_a_request_of_no_tokens_costs_the_least_there_is() -> None:
    plan = plan_request(0, TraceRow(0, 0, 0), ACCOUNTS, 1)
    assert plan.actual[CREDITS] == 1
    assert plan.estimate[CREDITS] >= 1


def test_a_population_is_a_forest_with_everything_in_it() -> None:
    population = plan_population("run", 20_000, 1)
    seen: set[str] = set()
    for level in population.levels:
        assert all(plan.parent == "" or plan.parent in seen for plan in level)
        seen |= {plan.account for plan in level}
    assert len(seen) == len(population.accounts) > 1_500
    users = population.users
    assert any(plan.frozen for plan in users)
    assert {len(plan.limits) for plan in users} == {0, 1, 2}
    plans = [plan for level in population.levels for plan in level]
    grants = [grant for plan in plans for grant in plan.grants]
    assert len({grant.priority for grant in grants}) >= 4
    assert {grant.credit_type for grant in grants} == {CREDITS, PREMIUM}
    assert any(grant.cost for grant in grants)
    assert any(not grant.cost for grant in grants)
    assert any(grant.lifetime_ms == 0 for grant in grants)
    assert any(0 < grant.lifetime_ms <= 20_000 for grant in grants)
    assert any(grant.delay_ms for grant in grants)
    assert any(plan.overdraft for plan in plans)
    assert min(grant.amount for grant in grants) >= 1


def test_a_small_run_has_a_small_population() -> None:
    population = plan_population("run", 10, 1)
    assert len(population.accounts) < 200
    assert all(
        grant.amount >= 1 for level in population.levels for plan in level for grant in plan.grants
    )
