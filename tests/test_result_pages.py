"""What the pages say of the committed results holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.committed import committed, compared, comparison, side


def test_what_the_pages_say_of_personality_statements_holds(repository: Path) -> None:
    table = committed(repository, "tables/personality_items")
    verdicts = compared(table)
    floors = {"gaussian", "factors"}
    for metric in ("nll", "mae_expected"):
        rivals = {b for a, b, m in verdicts if (a, m) == ("stage3", metric)} - {"stage2"}
        assert len(rivals) > 15
        assert {b for b in rivals if verdicts["stage3", b, metric] < 1} == floors
        assert verdicts["stage3", "hypernetwork", metric] == 1
    assert [verdicts["stage3", "gaussian", m] for m in ("nll", "mae_expected")] == [0, -1]
    gains = {
        (p["items"], p["b"]): p
        for p in table["lengths"]
        if p["cut"] and p["metric"] == "nll" and p["a"] == "stage3"
    }
    assert {items for items, _ in gains} == {1, 3, 8, 12, 20}
    assert all(p["high"] < 0 for (_, b), p in gains.items() if b in ("stage1", "oppu-mlp"))
    before = committed(repository, "uncalibrated/personality_items")
    for arm in ("stage3", "oppu-mlp"):
        own, other = (result["rows"][arm] for result in (table, before))
        for cost in ("trained_tokens", "cpu_seconds"):
            assert own["training"][cost] < other["training"][cost] / 5
        assert own["metrics"]["nll"]["user_mean"] < other["metrics"]["nll"]["user_mean"]


def test_what_the_pages_say_of_films_and_requests_holds(repository: Path) -> None:
    tables = {
        name: committed(repository, f"tables/{name}")
        for name in ("movie_ratings", "politeness_ratings", "personality_items", "news_categories")
    }
    for table in tables.values():
        verdicts = compared(table)
        assert verdicts["stage2", "stage1", "nll"] == 1
        assert verdicts["stage3", "stage2", "nll"] >= 0
    clear = {}
    for name in ("movie_ratings", "politeness_ratings"):
        assert compared(tables[name])["stage3", "oppu-mlp", "nll"] == 0
        clear[name] = gains_by_length(tables[name], "oppu-mlp")
    assert clear["movie_ratings"] == {1: -1, 3: -1, 8: -1}
    assert clear["politeness_ratings"] == dict.fromkeys((1, 3, 8, 20, 40), 0)
    requests = tables["politeness_ratings"]
    means = {
        name: sum(values["nll"]) / len(values["nll"]) for name, values in requests["people"].items()
    }
    assert min(means, key=lambda name: means[name]) == "tfidf"
    (alone,) = (
        p
        for p in requests["lengths"]
        if p["cut"] and (p["items"], p["a"], p["b"], p["metric"]) == (1, "stage3", "stage1", "nll")
    )
    assert alone["low"] < 0 < alone["delta"]
    demos = [committed(repository, f"{name}") for name in ("demo", "demo-calibrated")]
    trained, inferred = (demo["arms"]["stage3"]["metrics"]["nll"]["mean"] for demo in demos)
    assert trained < inferred


def gains_by_length(table: dict[str, Any], b: str) -> dict[int, int]:
    """Of cut histories on which side of zero the loss of stage 3 less another's lies, by items."""
    return {
        p["items"]: side(p)
        for p in table["lengths"]
        if p["cut"] and (p["a"], p["b"], p["metric"]) == ("stage3", b, "nll")
    }


def test_what_the_pages_say_of_news_and_titles_holds(repository: Path) -> None:
    news, titles = (
        committed(repository, f"tables/{name}") for name in ("news_categories", "scholarly_titles")
    )
    assert (news["users"], news["folds"], titles["users"]) == (67, 3, 50)
    floors = {"majority", "own-majority", "tfidf"}
    verdicts = compared(news)
    rivals = {b for a, b, m in verdicts if (a, m) == ("stage3", "nll")}
    assert {b for b in rivals if verdicts["stage3", b, "nll"] < 1} == floors
    assert [verdicts["stage3", b, "nll"] for b in ("own-majority", "tfidf")] == [-1, -1]
    assert verdicts["stage3", "tfidf", "accuracy"] == 0
    assert gains_by_length(news, "stage1") == dict.fromkeys((1, 3, 8, 20), -1)
    assert gains_by_length(news, "oppu-mlp") == dict.fromkeys((1, 3, 8, 20), -1)
    assert comparison(news, "stage3", "oppu-mlp", "nll")["p_holm"] > 0.05
    headlines = committed(repository, "tables/news_headlines")
    assert gains_by_length(headlines, "oppu-mlp") == dict.fromkeys((1, 3, 8, 20), -1)
    verdicts = compared(headlines)
    assert [verdicts["stage3", "oppu-mlp", metric] for metric in ("nll", "rougeL")] == [1, 0]
    verdicts = compared(titles)
    rivals = {b for a, b, m in verdicts if (a, m) == ("stage3", "nll")}
    assert len(rivals) > 8
    assert {verdicts["stage3", b, "nll"] for b in rivals} == {1}
    assert verdicts["stage2", "stage1", "nll"] == 0
    assert verdicts["stage2", "stage1", "rougeL"] == 1
    rouge = {n: row["metrics"]["rougeL"]["user_mean"] for n, row in titles["rows"].items()}
    assert min(rouge["stage2-mean"], rouge["stage3-shuffled"]) > rouge["oppu-mlp"] > rouge["stage1"]
    assert gains_by_length(titles, "stage1") == {1: 0, 3: -1, 8: -1, 20: -1}
    assert gains_by_length(titles, "oppu-mlp") == {1: 0, 3: 0, 8: 0, 20: -1}


def test_what_the_results_page_says_of_several_trainings_holds(repository: Path) -> None:
    table, seeds = (committed(repository, f"{f}/personality_items") for f in ("tables", "seeds"))
    assert (seeds["seeds"], seeds["users"]) == ([0, 1, 2], table["users"])
    one, three = compared(table), compared(seeds)
    for metric in ("nll", "mae_expected"):
        for pair in (("stage2", "stage1"), ("stage3", "stage1"), ("stage3", "oppu-mlp")):
            assert one[*pair, metric] == three[*pair, metric] == 1
    differences = comparison(seeds, "stage3", "oppu-mlp", "nll")["by_seed"]
    assert len(differences) == 3 and max(differences) < 0

    films = committed(repository, "seeds/movie_ratings")
    assert films["seeds"] == [0, 1, 2]
    for metric in ("nll", "mae_expected"):
        assert max(comparison(films, "stage3", "stage1", metric)["by_seed"]) < 0
    verdicts = compared(films)
    assert [verdicts["stage3", "oppu-mlp", m] for m in ("nll", "mae_expected")] == [1, 0]
    low, *others = sorted(comparison(films, "stage3", "oppu-mlp", "nll")["by_seed"])
    assert low < -0.05 and len(others) == 2 and min(others) > 0 and max(others) < 0.02
    assert gains_by_length(films, "oppu-mlp") == {1: -1, 3: 0, 8: 0}
    assert gains_by_length(committed(repository, "tables/movie_ratings"), "oppu-mlp") == {
        1: -1,
        3: -1,
        8: -1,
    }

    requests = committed(repository, "seeds/politeness_ratings")
    assert requests["seeds"] == [0, 1, 2]
    verdicts = compared(requests)
    for metric in ("nll", "mae_expected"):
        of = [verdicts["stage3", b, metric] for b in ("stage1", "stage2", "oppu-mlp")]
        assert of == [1, 1, 0]
    assert gains_by_length(requests, "oppu-mlp") == {1: 0, 3: 0, 8: -1}
    for b in ("stage1", "stage2"):
        assert max(comparison(requests, "stage3", b, "nll")["by_seed"]) < 0


FLOORS_OVER_SMOLLM2 = ("tfidf", "own-median", "own-mean", "item-offset", "majority")


def test_what_the_results_page_says_of_a_real_language_model_holds(repository: Path) -> None:
    table = committed(repository, "smollm2/politeness_ratings")
    assert (table["profile"], table["users"], table["seeds"]) == ("smollm2-cpu", 60, [0])
    verdicts = compared(table)
    rivals = {b for a, b, _ in verdicts if a == "stage3"} - {"stage1", "stage2", "stage3-shuffled"}
    assert rivals == {"oppu-mlp", *FLOORS_OVER_SMOLLM2}
    means = {n: row["metrics"]["mae_expected"]["user_mean"] for n, row in table["rows"].items()}
    assert set(sorted(means, key=means.__getitem__)[:2]) == {"stage2", "stage3"}
    for metric in ("nll", "mae_expected"):
        assert {verdicts["stage3", b, metric] for b in rivals} == {1}
        assert verdicts["stage2", "stage1", metric] == 1
    assert [verdicts["stage3", "stage2", m] for m in ("nll", "mae_expected")] == [1, 0]
    assert table["rows"]["stage3"]["metrics"]["mae_expected"]["user_mean"] < 0.80
    assert table["rows"]["oppu-mlp"]["training"]["trained_tokens"] == 0  # by its calibration

    topics = committed(repository, "smollm2/news_categories")
    assert (topics["profile"], topics["users"], topics["seeds"]) == ("smollm2-cpu", 13, [0])
    for metric, sign in (("nll", 1), ("accuracy", -1)):
        of = {n: sign * row["metrics"][metric]["user_mean"] for n, row in topics["rows"].items()}
        assert "stage2" in sorted(of, key=of.__getitem__)[: 2 if metric == "nll" else 1]
    verdicts = compared(topics)
    for metric in ("nll", "accuracy"):
        pairs = (
            ("stage2", "stage1"),
            ("stage3", "stage1"),
            ("stage3", "stage2"),
            ("stage3", "tfidf"),
        )
        assert {verdicts[*pair, metric] for pair in pairs} == {0}
    assert verdicts["stage3", "oppu-mlp", "nll"] == 1
    assert comparison(topics, "stage3", "oppu-mlp", "nll")["p_holm"] > 0.05

    statements = committed(repository, "smollm2/personality_items")
    assert (statements["profile"], statements["users"]) == ("smollm2-cpu", 60)
    verdicts = compared(statements)
    rivals = {b for a, b, _ in verdicts if a == "stage3"} - {"stage2", "stage3-shuffled"}
    assert rivals == {"stage1", "oppu-mlp", *FLOORS_OVER_SMOLLM2}
    assert {verdicts["stage3", b, m] for b in rivals for m in ("nll", "mae_expected")} == {1}
    assert [verdicts["stage3", "stage2", m] for m in ("nll", "mae_expected")] == [0, -1]

    run = committed(repository, "uncalibrated/personality_items-smollm2")
    clear = {
        (row["a"], row["b"], row["metric"]): side(row)
        for row in run["contrasts"]
        if row["level"] == "user"
    }
    assert clear["stage2", "stage1", "nll"] == clear["stage2", "stage1", "mae_expected"] == -1
    assert clear["oppu-mlp", "stage1", "nll"] == clear["oppu-mlp", "stage1", "mae_expected"] == 0
    assert clear["stage3", "oppu-mlp", "mae_expected"] == -1
    assert clear["stage3", "stage2", "nll"] == 1


def test_what_the_results_page_says_of_presets_and_parts_holds(repository: Path) -> None:
    presets, parts, experts = (
        committed(repository, f"structures/{n}") for n in ("presets", "ablations", "experts")
    )
    assert (presets["users"], parts["users"]) == (100, 9)

    def mean(table: dict[str, Any], row: str, metric: str) -> float:
        return table["rows"][row]["metrics"][metric]["user_mean"]

    verdicts = compared(presets)
    for other in ("default", "device", "paper", "released"):
        for stage in ("stage2", "stage3"):
            for metric in ("nll", "mae_expected"):
                best = mean(presets, f"{stage} (calibrated)", metric)
                assert best < mean(presets, f"{stage} ({other})", metric)
                assert verdicts[f"{stage} ({other})", "oppu-mlp", metric] < 1
        assert verdicts[f"stage2 ({other})", "stage1", "nll"] == 0

    verdicts = compared(experts)
    assert experts["users"] == 100
    for stage in ("stage2", "stage3"):
        five, two, eight = (f"{stage} ({number} experts)" for number in (5, 2, 8))
        assert (verdicts[five, two, "mae_expected"], verdicts[five, two, "nll"]) == (1, 0)
        assert verdicts[five, eight, "mae_expected"] == verdicts[five, eight, "nll"] == 0

    routing = committed(repository, "structures/routing")
    assert (routing["users"], len(routing["routing"])) == (100, 2)
    verdicts = compared(routing)
    for metric in ("nll", "mae_expected"):
        pair = "stage2 (full)", "stage2 (text router, no constraint)"
        assert mean(routing, pair[0], metric) < mean(routing, pair[1], metric)
        assert verdicts[*pair, metric] == 0

    least = committed(repository, "structures/least_active")
    assert (least["users"], least["lengths"][0]["items"]) == (60, 8)
    of = {
        metric: comparison(least, "stage3", "stage2", metric) for metric in ("nll", "mae_expected")
    }
    assert {row["delta"] for row in of.values()} == {0}
    verdicts = compared(least)
    assert verdicts["stage3", "stage1", "nll"] == verdicts["stage3", "stage1", "mae_expected"] == 1
    assert verdicts["stage3", "oppu-mlp", "mae_expected"] == 1
    assert verdicts["stage3", "oppu-mlp", "nll"] == 0

    verdicts = compared(parts)
    assert verdicts["stage2 (full)", "stage2 (regular router)", "nll"] == 1
    gain = mean(parts, "stage1", "nll") - mean(parts, "stage2 (full)", "nll")
    lost = mean(parts, "stage2 (regular router)", "nll") - mean(parts, "stage2 (full)", "nll")
    assert lost > gain / 2
    shuffled = "stage2 (full)", "stage2 (stage 2 of shuffled identities)"
    assert [verdicts[*shuffled, metric] for metric in ("accuracy", "nll")] == [1, 0]
    for stage, part in (
        ("stage2", "no constraint loss"),
        ("stage3", "no LoRA-aware router"),
        ("stage3", "private W_l"),
        ("stage3", "end to end"),
    ):
        for metric in ("accuracy", "nll"):
            assert verdicts[f"{stage} (full)", f"{stage} ({part})", metric] == 0
