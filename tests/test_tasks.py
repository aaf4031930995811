"""Templates byte for byte, label sets, placeholders that may not get lost."""

from __future__ import annotations

import pytest

from proper_model.errors import DataError, TaskError
from proper_model.tasks.records import HistoryItem, Place, Query, Report
from proper_model.tasks.task import SHIPPED, load_task, shipped_tasks, task_from_toml
from proper_model.tasks.templates import first_words

LAMP = ("LaMP_1", "LaMP_2M", "LaMP_2N", "LaMP_3", "LaMP_4", "LaMP_5", "LaMP_7")
TAGS = (
    "sci-fi, based on a book, comedy, action, twist ending, dystopia, dark comedy, classic, "
    "psychology, fantasy, romance, thought-provoking, social commentary, violence, true story"
)
CATEGORIES = (
    "travel, education, parents, style & beauty, entertainment, food & drink, "
    "science & technology, business, sports, healthy living, women, politics, crime, "
    "culture & arts, religion"
)
TAG_QUESTION = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name "
    "without further explanation. tags: [" + TAGS + "]"
)
NEWS_QUESTION = (
    "Which category does this article relate to among the following categories? Just answer with "
    "the category name without further explanation. categories: [" + CATEGORIES + "]"
)
RATING_QUESTION = (
    "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, "
    "or 5 without further explanation. review: "
)
CITATION_INPUT = (
    'For an author who has written the paper with the title "On "Quotes"", which reference is '
    "related? Just answer with [1] or [2] without explanation. "
    '[1]: "First "odd" title" [2]: "Second title"'
)

# task, input, gold, item fields -> query prompt, history prompt, history answer, retrieval line
OPPU = {
    "LaMP_1": (
        (CITATION_INPUT, "[1]"),
        {"title": "A title", "abstract": "An abstract", "citation": "A cited title"},
        "Identify the most relevant reference for the listed publication by the researcher. "
        "Select the reference paper that is most closely related to the researcher's work.\n"
        'paper title: On "Quotes" reference:',
        "paper title: A title reference:",
        "A cited title",
        "paper title: A title\n",
    ),
    "LaMP_2M": (
        (TAG_QUESTION + " description: A heist.", "action"),
        {"description": "A duel.", "tag": "classic"},
        TAG_QUESTION + "\n description: A heist. tag:",
        TAG_QUESTION + "\n description: A duel. tag:",
        "classic",
        "description: A duel. tag: classic\n",
    ),
    "LaMP_2N": (
        (NEWS_QUESTION + " article: A vote.", "politics"),
        {"text": "A match.", "title": "Won", "category": "sports"},
        NEWS_QUESTION + "\n article: A vote. category:",
        NEWS_QUESTION + "\n article: A match. category:",
        "sports",
        "article: A match. category: sports\n",
    ),
    "LaMP_3": (
        (RATING_QUESTION + "Broke at once.", "1"),
        {"text": "Lasts.", "score": "5"},
        RATING_QUESTION + "Broke at once.\n score:",
        RATING_QUESTION + "Lasts.\n score:",
        "5",
        "review: Lasts. score: 5\n",
    ),
    "LaMP_4": (
        ("Generate a headline for the following article: It rained.", "Rain"),
        {"text": "It snowed.", "title": "Snow"},
        "Generate a headline for the following article.\narticle: It rained. headline:",
        "Generate a headline for the following article.\n article: It snowed. headline:",
        "Snow",
        "article: It snowed. headline: Snow\n",
    ),
    "LaMP_5": (
        ("Generate a title for the following abstract of a paper: We prove.", "A proof"),
        {"abstract": "We measure.", "title": "A measurement"},
        "Generate a title for the following abstract of a paper.\n abstract: We prove. title:",
        "Generate a title for the following abstract of a paper.\n abstract: We measure. title:",
        "A measurement",
        "abstract: We measure. title: A measurement\n",
    ),
    "LaMP_7": (
        (
            "Paraphrase the following tweet without any explanation before or after it: Good day.",
            "gday",
        ),
        {"text": "so tired lol"},
        "Paraphrase the following text into tweet without any explanation before or after it.\n"
        " text: Good day. tweet:",
        "tweet:",
        "so tired lol",
        "tweet: so tired lol\n",
    ),
}


@pytest.mark.parametrize("name", LAMP)
def test_oppu_strings_are_those_of_the_release(name):
    (question, gold), fields, query, prompt, answer, line = OPPU[name]
    task, item = load_task(name, template="oppu"), HistoryItem("h", fields)
    asked, told = task.query_example(Query("q", question, gold)), task.history_example(item)
    assert (asked.prompt, asked.answer) == (query, gold)
    assert (told.prompt, told.answer) == (prompt, answer)
    assert task.retrieval_line(item) == line


# What Per-Pcs's release says instead, read in its prompt.json; LaMP-2N is not in it.
INSTRUCTION = "### User Instruction:\n"
PER_PCS = {
    "LaMP_1": (
        INSTRUCTION
        + "Identify the most relevant reference for the listed publication by the researcher. "
        "Select the reference paper that is most closely related to the researcher's work. Please "
        "respond with only the number that corresponds to the reference.\n"
        'Paper Title: On "Quotes"\nReference: [1] - First "odd" title [2] - Second title\nAnswer:',
        "Paper Title: A title Reference:",
        "Paper Title: A title\n",
    ),
    "LaMP_2M": (
        INSTRUCTION + TAG_QUESTION + "\nDescription: A heist. Tag:",
        INSTRUCTION + TAG_QUESTION + "\nDescription: A duel. Tag:",
        "Description: A duel. Tag: classic\n",
    ),
    "LaMP_3": (
        INSTRUCTION + RATING_QUESTION.replace(" review: ", "\nReview: ") + "Broke at once. Score:",
        INSTRUCTION + RATING_QUESTION.replace(" review: ", "\nReview: ") + "Lasts. Score:",
        "Review: Lasts. Score: 5\n",
    ),
    "LaMP_4": (
        INSTRUCTION + "Generate a headline for the following article.\n"
        "Article: It rained. Headline:",
        INSTRUCTION + "Generate a headline for the following article.\n"
        "Article: It snowed. Headline:",
        "Article: It snowed. Headline: Snow\n",
    ),
    "LaMP_5": (
        INSTRUCTION + "Generate a title for the following abstract of a paper.\n"
        "Abstract: We prove. Title:",
        "Generate a title for the following abstract of a paper.\n abstract: We measure. title:",
        "abstract: We measure. title: A measurement\n",
    ),
    "LaMP_7": (
        INSTRUCTION
        + "Paraphrase the following text into tweet without any explanation before or after it.\n"
        "Text: Good day. Tweet:",
        "Tweet:",
        "Tweet: so tired lol\n",
    ),
}


@pytest.mark.parametrize("name", PER_PCS)
def test_per_pcs_strings_are_those_of_the_release(name):
    (question, gold), fields, _, _, answer, _ = OPPU[name]
    task, item = load_task(name, template="per-pcs"), HistoryItem("h", fields)
    asked, told = task.query_example(Query("q", question, gold)), task.history_example(item)
    assert (asked.prompt, told.prompt, task.retrieval_line(item)) == PER_PCS[name]
    assert told.answer == answer


@pytest.mark.parametrize("name", LAMP)
def test_every_lamp_task_ships_with_its_template_sets(name):
    task = load_task(name)
    assert set(task.templates) - {"per-pcs"} == {"oppu", "oppu-fixed", "lamp", "short"}
    assert ("per-pcs" in task.templates) == (name in PER_PCS)
    assert task_from_toml(task.toml_text) == task
    for template in task.templates:
        assert load_task(name, template=template).template == template


RELEASES = [(n, t) for n in LAMP for t in load_task(n).templates if t in ("oppu", "per-pcs")]
ODD = " a  b\n\tc\u00a0d \u2003e "  # seven kinds and places of white space
EVEN = "a b c d e"


@pytest.mark.parametrize(("name", "template"), RELEASES)
def test_white_space_is_collapsed_where_the_releases_collapse_it(name, template):
    """Both put history fields, lines and training queries through split and join, citations apart.

    Test queries stand as they are.
    """
    task = load_task(name, template=template)
    (question, gold), fields, *_ = OPPU[name]
    odd, even = (HistoryItem("h", dict.fromkeys(fields, text)) for text in (ODD, EVEN))
    assert task.history_example(odd) == task.history_example(even)
    assert task.retrieval_line(odd) == task.retrieval_line(even)
    old = 'On "Quotes"' if name == "LaMP_1" else question.split(": ")[-1]

    def ask(text, **how):
        return task.query_example(Query("q", question.replace(old, text), gold), **how)

    assert ask(ODD, training=True) == ask(ODD if name == "LaMP_1" else EVEN, training=True)
    assert ODD in ask(ODD).prompt
    assert ODD in task.ask(question.replace(old, ODD))
    # OPPU cuts what is trained on after 768 words, never a test query.
    long = " ".join(str(n) for n in range(1000))
    assert " 999" in ask(long).prompt
    assert (" 768" in ask(long, training=True).prompt) == (name == "LaMP_1")


def test_all_task_files_of_the_repository_load(repository):
    assert set(LAMP) <= set(shipped_tasks())
    own = sorted((repository / "profiles" / "tasks").glob("*.toml"))
    assert {path.stem for path in own} >= {"news_categories", "movie_ratings"}
    for path in [*SHIPPED.glob("*.toml"), *own]:
        assert load_task(str(path)).name == path.stem


def test_citation_parts_survive_quotes_and_reach_the_short_prompt():
    task = load_task("LaMP_1", template="short")
    prompt = task.query_example(Query("q", CITATION_INPUT, "[1]")).prompt
    assert prompt == 'title: On "Quotes" [1]: First "odd" title [2]: Second title reference:'
    repaired = load_task("LaMP_1", template="oppu-fixed")
    assert repaired.query_example(Query("q", CITATION_INPUT, "[1]")).prompt == CITATION_INPUT


def test_a_query_in_other_words_is_asked_as_it_stands():
    task = load_task("LaMP_1", template="short")
    query = Query("q", "Which one?", "[1]")
    assert task.query_text(query) is None
    assert task.query_example(query).prompt == "Which one?"


def test_headline_history_is_repaired_to_the_query_form():
    task = load_task("LaMP_4", template="oppu-fixed")
    query = Query("q", "Generate a headline for the following article: Same.", "x")
    item = HistoryItem("h", {"text": "Same.", "title": "T"})
    assert task.history_example(item).prompt == task.query_example(query).prompt


def test_history_objective_is_chosen_by_the_template_name():
    item = HistoryItem("h", {"text": " ".join(f"w{i}" for i in range(20))})
    task = load_task("LaMP_7", template="oppu+lamp-peft")
    assert task.template == "oppu+lamp-peft"
    example = task.history_example(item)
    head = example.prompt.removeprefix("Complete the following tweet: ")
    assert f"{head} {example.answer}" == item.fields["text"]
    assert 2 <= len(head.split()) <= 5
    assert task.history_example(item) == example
    citation = load_task("LaMP_1", template="oppu+lamp-peft")
    told = citation.history_example(HistoryItem("h", {"title": "T", "abstract": "A"}))
    assert (told.prompt, told.answer) == ("Write an abstract for this title: T", "A")


@pytest.mark.parametrize(("text", "head", "rest"), [("one", "", "one"), ("a b", "a", "b")])
def test_short_tweets_keep_an_answer(text, head, rest):
    example = load_task("LaMP_7", template="lamp").history_example(HistoryItem("h", {"text": text}))
    assert example.prompt == f"Complete the following tweet: {head}"
    assert example.answer == rest


def test_long_texts_are_cut_in_whitespace_words():
    words = " ".join(str(i) for i in range(1000))
    task = load_task("LaMP_4", template="oppu")
    item = HistoryItem("h", {"text": words, "title": "T"})
    query = Query("q", "Generate a headline for the following article: " + words, "x")
    assert task.query_example(query, training=True).prompt.endswith(" 767 headline:")
    assert task.query_example(query).prompt.endswith(" 999 headline:")
    assert task.history_example(item).prompt.endswith(" 767 headline:")
    assert task.retrieval_line(item).endswith(" 367 headline: T\n")
    assert first_words("two  blanks", 2) == "two  blanks"


def test_labels_come_from_the_prompt_where_it_lists_them():
    task = load_task("LaMP_2N", template="short")
    query = Query("q", "x categories: [war, peace, war] article: Text.", "peace")
    assert task.labels_for(query) == ("war", "peace")
    assert task.labels_for(Query("q", "no list", "politics")) == task.labels
    assert load_task("LaMP_4").labels_for(query) == ()


def test_a_prompt_with_other_labels_is_refused_where_the_template_shows_the_tasks_own():
    query = Query("q7", "x categories: [war, peace] article: Text.", "peace")
    load_task("LaMP_2N", template="short").check_query(query, Place("f"), Report())
    with pytest.raises(DataError, match="'q7' lists 2 labels that are not the 15"):
        load_task("LaMP_2N", template="oppu").check_query(query, Place("f"), Report())


def test_gold_outside_the_labels_is_an_error_with_its_place_and_without_its_text():
    task, place = load_task("LaMP_3"), Place("f", 7, "query[1]")
    task.check_query(Query("q0", "r", "3"), place, Report())
    with pytest.raises(DataError, match=r"query\[1\].gold: .*'q1'.* not among its 5") as caught:
        task.check_query(Query("q1", "r", "secret"), place, Report())
    assert "secret" not in caught.value.message


def test_unknown_names_list_what_there_is(tmp_path):
    with pytest.raises(TaskError, match="unknown task 'LaMP_6'") as caught:
        load_task("LaMP_6")
    assert "LaMP_2M" in (caught.value.hint or "")
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(str(tmp_path / "absent.toml"))
    with pytest.raises(TaskError, match="no template set 'rude'"):
        load_task("LaMP_3", template="rude")
    with pytest.raises(TaskError, match="no history objective 'lamp-peft'"):
        load_task("LaMP_3", template="oppu+lamp-peft")


@pytest.mark.parametrize(
    ("gold", "close"), [("Sci-Fi", True), ("social  commentary", True), ("western", False)]
)
def test_an_answer_that_only_looks_different_is_told_apart(gold: str, close: bool) -> None:
    query = Query("q", TAG_QUESTION + " description: y", gold)
    report = Report(strict=False)
    load_task("LaMP_2M", template="lamp").check_query(query, Place("f"), report)
    assert len(report.problems) == 1
    assert report.problems[0].message.endswith("only in case or spaces") is close
