"""What the pages say of the committed attacks holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.cli import run_cli
from tests.committed import committed


def test_committed_attacks_are_shown_and_other_files_are_refused(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((repository / "results/privacy").glob("*.json"))
    assert run_cli(["privacy", "table", *map(str, files)]) == 0
    said = capsys.readouterr().out
    assert all(path.stem.partition("-")[0] in said for path in files)
    assert said.count("note: ") >= len(files)
    for other in ("demo.json", "missing.json"):
        assert run_cli(["privacy", "table", str(repository / "results" / other)]) == 19
        assert other in capsys.readouterr().err


def test_what_the_privacy_page_says_of_members_and_links_holds(repository: Path) -> None:
    members, links = (committed(repository, f"privacy/{n}") for n in ("membership", "linkage"))
    assert members["seeds"] == links["seeds"] == [0, 1, 2, 3, 4]
    best: dict[tuple[str, str], float] = {}
    for row in members["attacks"]:
        if row["control"] == "none":
            key = row["thing"], row["level"]
            best[key] = max(best.get(key, 0.0), row["pooled"]["auc"])
            assert row["thing"] != "router-cohort" or row["p_holm"] > 0.05
    told = ("population", "experts", "embeddings")
    assert [f"{best[name, 'person']:.2f}" for name in told] == ["0.80", "0.68", "0.71"]
    assert [f"{best[name, 'fresh']:.2f}" for name in told] == ["0.75", "0.67", "0.67"]
    assert f"{best['adapter', 'record']:.2f}" == "0.69"
    assert f"{best['adapter-embedding', 'record']:.2f}" == "0.73"

    found = {
        (row["scope"], row["thing"], row["attack"]): row
        for row in links["attacks"]
        if row["control"] == "none"
    }
    said = {
        ("group", "routing", "classifier"): "97%",
        ("group", "embedding", "classifier"): "95%",
        ("same-release", "routing", "cosine"): "34%",
        ("same-release", "answers", "cosine"): "47%",
        ("same-release", "embedding", "cosine"): "43%",
        ("same-release", "adapter", "cosine"): "54%",
        ("other-seed", "answers", "cosine"): "56%",
        ("other-seed", "adapter", "cosine"): "47%",
        ("other-seed", "routing", "aligned"): "23%",
        ("other-seed", "adapter-factors, seed kept", "cosine"): "100%",
    }
    assert {key: f"{found[key]['pooled']['value']:.0%}" for key in said} == said
    assert found["other-seed", "routing", "cosine"]["p_holm"] > 0.05


def test_what_the_privacy_page_says_of_deletion_holds(repository: Path) -> None:
    told = committed(repository, "privacy/deletion")
    assert told["seeds"] == [0, 1, 2, 3, 4]
    found: dict[tuple[str, str], float] = {}
    for row in told["attacks"]:
        if row["control"] == "none":
            key = row["scope"], row["thing"]
            found[key] = max(found.get(key, 0.0), row["pooled"]["auc"])
            assert row["scope"] != "after" or row["p_holm"] > 0.05
    said = {
        ("before", "population"): "0.91",
        ("before", "experts"): "0.71",
        ("both", "population"): "0.88",
        ("both", "experts"): "0.76",
        ("after", "population"): "0.59",
        ("after", "experts"): "0.63",
        ("before", "adapter"): "0.67",
        ("after", "adapter"): "0.49",
    }
    assert {key: f"{found[key]:.2f}" for key in said} == said
    exact = {row["thing"]: row for row in told["exact"]}
    assert all(row["different"] == 0 for row in exact.values())
    assert (exact["release"]["compared"], exact["adapter"]["compared"]) == (5, 120)
    left = {row["place"] for row in told["remains"] if row["after"]}
    assert left == {
        "data that the operator gave",
        "lists of ids that the operator typed",
        "the file of consents",
        "the person's own file",
    }


def test_what_the_privacy_page_says_of_poisoning_and_prototypes_holds(repository: Path) -> None:
    told = committed(repository, "privacy/poisoning")
    assert (told["users"], told["items"], told["seeds"]) == (50, 100, [0, 1, 2, 3, 4])
    found = {
        (row["thing"], row["malicious"], row["defence"]): row["pooled"]
        for row in told["rows"]
        if row["control"] == "none"
    }
    things = ("population", "experts")
    said = {"none": ["96%", "83%"], "items": ["7%", "4%"], "both": ["32%", "22%"]}
    for defence, shares in said.items():
        one = [f"{found[thing, 1, defence]['trigger']['value']:.0%}" for thing in things]
        assert one == shares
        five = [found[thing, 5, defence]["trigger"]["value"] for thing in things]
        assert all(share > 0.9 for share in five)
    cost = [found[thing, 1, "both"]["loss_change"]["value"] for thing in things]
    assert [f"{value:.2f}" for value in cost] == ["0.08", "0.18"]
    assert all(found[thing, 1, "none"]["loss_change"]["low"] < 0 for thing in things)

    alone = committed(repository, "privacy/poisoning-router")
    assert alone["seeds"] == [0, 1, 2, 3, 4]
    assert {row["malicious"] for row in alone["rows"]} == {0, 1, 5, 50}
    assert all(abs(row["pooled"]["gain"]["value"]) < 5e-4 for row in alone["rows"])

    best: dict[tuple[str, str], float] = {}
    for name in ("membership", "membership-prototypes"):
        for row in committed(repository, f"privacy/{name}")["attacks"]:
            if (row["thing"], row["control"]) == ("embeddings", "none"):
                key = name, row["level"]
                best[key] = max(best.get(key, 0.0), row["pooled"]["auc"])
    assert {key: f"{value:.2f}" for key, value in best.items()} == {
        ("membership", "person"): "0.71",
        ("membership", "fresh"): "0.67",
        ("membership-prototypes", "person"): "0.66",
        ("membership-prototypes", "fresh"): "0.61",
    }


def test_what_the_privacy_page_says_of_real_readers_holds(repository: Path) -> None:
    told = committed(repository, "privacy/membership-news")
    assert (told["task"], told["people"], told["seeds"]) == ("news_categories", 54, [0])
    found = {
        (row["thing"], row["attack"], row["level"]): row
        for row in told["attacks"]
        if row["control"] == "none"
    }
    said = {
        ("population", "loss-minus-public", "person"): ("0.71", "0.55", "0.85"),
        ("experts", "loss-minus-public", "person"): ("0.71", "0.56", "0.84"),
        ("population", "loss-minus-public", "fresh"): ("0.75", "0.61", "0.88"),
        ("experts", "loss-minus-public", "fresh"): ("0.76", "0.61", "0.88"),
        ("adapter-embedding", "lira", "record"): ("0.69", "0.62", "0.75"),
    }
    for key, numbers in said.items():
        pooled = found[key]["pooled"]
        assert tuple(f"{pooled[name]:.2f}" for name in ("auc", "low", "high")) == numbers
        same = [row["pooled"]["auc"] for of, row in found.items() if of[::2] == key[::2]]
        assert pooled["auc"] == max(same)
        assert (found[key]["p_holm"] < 0.05) is (key[2] != "person")
    assert min(row["p_holm"] for key, row in found.items() if key[0] == "answers") > 0.05


def test_what_the_privacy_page_says_of_privacy_for_real_people_holds(repository: Path) -> None:
    said = {
        "personality": (300, "7.61", {"2": "91%", "8": "95%"}, {"8": "1.04", "unclipped": "0.71"}),
        "politeness": (150, "7.56", {"2": "76%", "8": "95%"}, {"8": "0.99", "unclipped": "0.67"}),
    }
    for name, (candidates, public, kept, losses) in said.items():
        told = committed(repository, f"privacy/epsilon-{name}")
        assert (told["candidates"], told["seeds"]) == (candidates, [0])
        assert f"{told['public']['value']:.2f}" == public
        rows = {row["thing"]: row["pooled"] for row in told["rows"]}
        assert {of: f"{rows[of]['kept']['value']:.0%}" for of in kept} == kept
        assert {of: f"{rows[of]['stage2']['value']:.2f}" for of in losses} == losses
        aucs = [row["membership"]["auc"] for row in rows.values()]
        assert min(aucs) > 0.495 and max(aucs) < 0.595
        assert (told["positive"]["low"] > 0.5) is (name == "personality")
        for row in told["rows"]:
            if row["epsilon"] is not None:
                assert row["pooled"]["people"]["epsilon"] <= row["epsilon"]
                assert row["pooled"]["crafted"]["epsilon"] <= row["epsilon"]


def test_what_the_privacy_page_says_of_the_prior_holds(repository: Path) -> None:
    told = committed(repository, "privacy/membership-prior")
    assert (told["people"], told["seeds"]) == (120, [1, 2, 3, 4, 5])
    found = {
        (row["thing"], row["attack"], row["level"]): row["pooled"]["auc"]
        for row in told["attacks"]
        if row["control"] == "none"
    }
    said = {
        ("common-start", "tracing", "person"): "0.99",
        ("common-start", "tracing", "fresh"): "0.87",
        ("inferred", "reach-p", "person"): "0.82",
        ("inferred", "distance", "person"): "0.77",
        ("inferred", "own-embedding", "person"): "0.95",
        ("inferred", "own-embedding", "fresh"): "0.88",
    }
    assert {key: f"{found[key]:.2f}" for key in said} == said


def test_what_the_privacy_page_says_of_traps_holds(repository: Path) -> None:
    told = committed(repository, "privacy/backdoor")
    assert (told["people"], told["seeds"]) == (24, [0, 1, 2, 3, 4])
    judged = {row["thing"]: row for row in told["judged"]}
    assert judged["honest"]["refused_as_trap"] == judged["honest"]["refused_as_files"] == 0
    bold = [name for name in judged if name.endswith("-bold")]
    assert len(bold) == 5 and all(judged[name]["refused_as_trap"] == 5 for name in bold)
    once = {
        row["thing"]: round(100 * row["pooled"]["greedy"]["value"])
        for row in told["canaries"]
        if (row["control"], row["insertions"]) == ("none", 1)
    }
    bounded = [f"{kind}-bounded" for kind in ("recipe", "scale", "start")]
    assert once["honest"] == 47
    assert [min(once[name] for name in bounded), max(once[name] for name in bounded)] == [93, 100]
    best: dict[str, float] = {}
    for row in told["records"]:
        if row["control"] == "none":
            best[row["thing"]] = max(best.get(row["thing"], 0.0), row["pooled"]["auc"])
    said = {name: f"{auc:.2f}" for name, auc in best.items()}
    assert (said["honest"], said["experts-bounded"]) == ("0.59", "0.82")
    assert sorted(said[name] for name in bounded)[::2] == ["0.65", "0.71"]
    assert f"{max(best[name] for name in bold):.2f}" == "0.93"


def test_what_the_privacy_page_says_was_measured_holds(repository: Path) -> None:
    canaries, epsilon, inversion = (
        committed(repository, f"privacy/{name}") for name in ("canaries", "epsilon", "inversion")
    )
    assert canaries["seeds"] == epsilon["seeds"] == inversion["seeds"] == [0, 1, 2, 3, 4]
    trained = {row["thing"]: row["pooled"] for row in epsilon["rows"]}
    kept = {thing: f"{row['kept']['value']:.0%}" for thing, row in trained.items()}
    assert (kept["8"], kept["1"], kept["inf"]) == ("21%", "4%", "70%")
    aucs = {thing: f"{row['membership']['auc']:.2f}" for thing, row in trained.items()}
    assert (aucs["unclipped"], aucs["inf"]) == ("0.90", "0.55")
    for row in epsilon["rows"]:
        if row["epsilon"] is not None:
            for attacker in ("people", "crafted"):
                assert row["pooled"][attacker]["epsilon"] <= row["epsilon"]
    found = {
        (row["thing"], row["attack"]): row
        for row in inversion["attacks"]
        if row["scope"] == "candidates" and row["control"] == "none"
    }
    one = {thing: found[f"{thing}; 1 text", "nearest, no defence"] for thing in ("lora", "router")}
    assert {thing: f"{row['pooled']['value']:.0%}" for thing, row in one.items()} == {
        "lora": "100%",
        "router": "85%",
    }
    hidden = (
        ("router, adapter unknown; 1 text", "nearest, no defence"),
        ("router; 1 text", "nearest, clipped, noise 1"),
    )
    assert min(found[key]["p_holm"] for key in hidden) > 0.05
    noisy = [found[f"lora; {of}", "nearest, clipped, noise 1"] for of in ("1 text", "4 texts")]
    assert [f"{row['pooled']['value']:.0%}" for row in noisy] == ["8%", "13%"]
    assert all(row["pooled"]["low"] > row["chance"] for row in noisy)
    secret = {
        (row["thing"], row["insertions"]): row["pooled"]
        for row in canaries["canaries"]
        if row["control"] == "none"
    }
    bits = [f"{secret[of, 1]['against_public']['value']:.1f}" for of in ("adapter", "release")]
    assert (bits, canaries["most"]) == (["7.8", "6.4"], 8)
    said = [(of, times) for of in ("adapter", "release") for times in (1, 16)]
    shares = [f"{secret[key]['greedy']['value']:.0%}" for key in said]
    assert shares == ["50%", "100%", "0%", "59%"]
    tokens = committed(repository, "privacy/canaries-new-token")
    assert (tokens["design"], tokens["seeds"]) == ("new-token", [0, 1, 2, 3, 4])
    once = {
        row["thing"]: f"{row['pooled']['greedy']['value']:.0%}"
        for row in tokens["canaries"]
        if (row["control"], row["insertions"]) == ("none", 1)
    }
    assert (once["release"], once["adapter"]) == ("50%", "100%")
