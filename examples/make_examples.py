"""Write the example datasets: `python examples/make_examples.py [FOLDER]`.

Every sentence here was written for Adapt. The same seed gives the same bytes on every machine and
Python version, because only `Random.random()` is used, whose sequence is promised to stay.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

SEED = 20260
N_TRAIN = 300
N_TEST = 150
N_MYDATA = 200
LICENCE = "Apache-2.0, written for Adapt"

Words = Mapping[str, Sequence[str]]
Example = Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """One dataset: what it is called and how a row is made."""

    name: str
    family: str
    kind: str
    metric: str
    labels: Sequence[str] | None
    notes: str
    make: Callable[[Random, int], Example]
    """From a generator and the row's number to one row; called again where the row is not new."""


# ---- Small tools ---------------------------------------------------------------------------------


def pick(rng: Random, items: Sequence[str]) -> str:
    """One of the items."""
    return items[int(rng.random() * len(items))]


def number(rng: Random, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return low + int(rng.random() * (high - low + 1))


def fill(rng: Random, template: str, words: Words) -> str:
    """The template with each {slot} replaced by one of its words, which may hold slots again."""
    while "{" in template:
        before, _, rest = template.partition("{")
        slot, _, after = rest.partition("}")
        template = f"{before}{pick(rng, words[slot])}{after}"
    return template


def sentence(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def rough(rng: Random, text: str) -> str:
    """The text as people type it: one in three has a typo, lost capitals or a lost full stop."""
    what = rng.random()
    if what < 0.15:
        at = number(rng, 1, len(text) - 3)
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if what < 0.25:
        return text.lower()
    if what < 0.33:
        return text.rstrip(".")
    return text


def labelled(question: str, labels: Sequence[str], text: str, label: str) -> Example:
    """A row that names its label options, as people write such prompts."""
    options = ", ".join(labels)
    prompt = f"{question} Answer with exactly one of: {options}.\n\n{text}\n\nAnswer:"
    return {"prompt": prompt, "response": label, "label": label}


# ---- Product reviews: sentiment, four of five positive -------------------------------------------

POLAR = ("positive", "negative")

PRODUCT_WORDS: Words = {
    "product": (
        *("kettle", "backpack", "desk lamp", "blender", "phone case", "keyboard", "tent", "drill"),
        *("rain jacket", "frying pan", "headset", "bike pump", "toaster", "office chair", "torch"),
        *("water bottle", "alarm clock", "vacuum cleaner", "puzzle", "yoga mat", "coffee grinder"),
    ),
    "part": (
        *("lid", "handle", "zip", "cable", "switch", "coating", "strap", "battery", "manual"),
        *("packaging", "hinge", "motor", "lining", "charger", "button", "stand"),
    ),
    "span": (
        *("a week", "two months", "half a year", "one weekend", "a few days", "a whole winter"),
        *("ten uses", "the first wash", "about a year"),
    ),
    "for": (
        *("my daughter", "our holiday flat", "work", "camping", "my dad", "the new kitchen"),
        *("travelling", "a birthday", "the garage", "my flatmate"),
    ),
    "aside": (
        *("", "", "", "", " I ordered it for {for}.", " It came in a plain box."),
        *(" The colour is as in the picture.", " I am no expert.", " My sister has the same one."),
        *(
            " Delivery took {span}.",
            " The {part} is made of metal.",
            " It replaces an older model.",
        ),
    ),
    "good_adjective": (
        *("sturdy", "quiet", "handy", "beautifully made", "reliable", "light", "comfortable"),
        *("easy to clean", "spot on", "great value", "well thought out", "solid"),
    ),
    "bad_adjective": (
        *("flimsy", "noisy", "clumsy", "badly made", "unreliable", "heavy", "uncomfortable"),
        *("hard to clean", "overpriced", "poorly designed", "wobbly", "useless"),
    ),
    "good_verdict": (
        *("I would buy it again", "five stars from me", "worth every cent", "we use it every day"),
        *("I have already ordered a second one", "no complaints", "I could not be happier"),
        *("it does exactly what it should", "highly recommended", "it made my mornings easier"),
    ),
    "bad_verdict": (
        *("I want my money back", "do not buy it", "a waste of money", "it went in the bin"),
        *("I regret ordering it", "never again", "I sent it back", "I expected far more"),
        *("it now gathers dust", "save yourself the trouble"),
    ),
    "good_fact": (
        *("the {part} still looks like new after {span}", "the {part} feels {good_adjective}"),
        *("the {part} works without a hitch", "even the {part} is {good_adjective}"),
        *("after {span} the {part} has not let me down", "it is anything but {bad_adjective}"),
        *("it is not {bad_adjective} at all", "setting it up took two minutes"),
    ),
    "bad_fact": (
        *("the {part} broke after {span}", "the {part} feels {bad_adjective}"),
        *("the {part} arrived cracked", "even the {part} is {bad_adjective}"),
        *("after {span} the {part} gave up", "it is anything but {good_adjective}"),
        *("it is not {good_adjective} at all", "setting it up took a whole evening"),
    ),
    "positive": (
        "Bought this {product} for {for} and {good_fact}. {good_verdict}.",
        "This {product} is {good_adjective}, and {good_fact}.",
        "I feared the {product} would be {bad_adjective}, but {good_fact}. {good_verdict}.",
        "{good_verdict}. The {product} is {good_adjective}.",
        "My old {product} was {bad_adjective}. This one is {good_adjective} and {good_fact}.",
        "Small flaw: {bad_fact}. They replaced it at once, {good_fact}, and {good_verdict}.",
        "Used the {product} for {span} now: {good_fact}, {good_fact}.",
        "Not cheap, but the {product} is {good_adjective}. {good_verdict}.",
    ),
    "negative": (
        "Bought this {product} for {for} and {bad_fact}. {bad_verdict}.",
        "This {product} is {bad_adjective}, and {bad_fact}.",
        "I hoped the {product} would be {good_adjective}, but {bad_fact}. {bad_verdict}.",
        "{bad_verdict}. The {product} is {bad_adjective}.",
        "My old {product} was {good_adjective}. This one is {bad_adjective} and {bad_fact}.",
        "Looks fine at first: {good_fact}. Then {bad_fact}, and {bad_verdict}.",
        "Used the {product} for {span} now: {bad_fact}, {bad_fact}.",
        "Cheap, and you can tell: the {product} is {bad_adjective}. {bad_verdict}.",
    ),
}


def product_review(rng: Random, index: int) -> Example:
    """A review; every fifth is negative."""
    label = "negative" if index % 5 == 2 else "positive"
    text = fill(rng, pick(rng, PRODUCT_WORDS[label]) + "{aside}", PRODUCT_WORDS)
    text = ". ".join(sentence(part) for part in text.split(". "))
    question = "What is the sentiment of this product review?"
    return labelled(question, POLAR, f"Review: {rough(rng, text)}", label)


# ---- Customer intent: six kinds of message to a shop ---------------------------------------------

INTENTS = ("refund", "delivery", "cancellation", "address change", "payment", "technical problem")

INTENT_WORDS: Words = {
    "item": (
        *(
            "handbag",
            "headset",
            "sofa",
            "laptop sleeve",
            "garden chair",
            "winter coat",
            "printer",
        ),
        *(
            "bookshelf",
            "doormat",
            "smart watch",
            "baby seat",
            "carpet",
            "monitor",
            "espresso maker",
        ),
    ),
    "order": ("my order", "order {number}", "my {item} order", "the parcel with the {item}"),
    "number": ("4711", "20918", "A-339", "88-120", "7045", "31007", "K-52", "90210", "1186"),
    "when": ("yesterday", "last week", "on Monday", "three days ago", "this morning", "in March"),
    "street": ("Mill Lane 4", "12 Harbour Road", "Linden Street 80", "9 Station Square"),
    "hello": ("Hi, ", "Hello, ", "Good morning, ", "", "", "", "Dear team, ", "Hey, "),
    "bye": ("", "", "", " Thanks!", " Kind regards, Jo", " Please answer soon.", " Thank you."),
    "refund": (
        "I sent back {order} {when} and still have no money on my account.",
        "the {item} came damaged, how do I get what I paid back?",
        "you promised to reimburse me for {order}, when will that happen?",
        "I returned the {item} {when}. Where is my money?",
        "the {item} does not fit, I would like to return it and be paid back.",
        "I was told {when} that I would be reimbursed for the {item}, but nothing came.",
    ),
    "delivery": (
        "where is {order}? I bought it {when}.",
        "the tracking page has not moved since I checked {when}, is {order} lost?",
        "how long until {order} gets here?",
        "the courier says he dropped off the {item} {when}, but there was nothing at the door.",
        "can you tell me on which day {order} will arrive?",
        "{order} should have been here {when}. What is keeping it?",
    ),
    "cancellation": (
        "please stop {order}, I no longer need it.",
        "I ordered the {item} twice by mistake {when}, drop one of them.",
        "can I still call off {order} before it leaves your warehouse?",
        "I changed my mind about the {item}, do not send it.",
        "is it too late to withdraw {order} from {when}?",
        "I found the {item} elsewhere, so undo what I ordered {when}.",
    ),
    "address change": (
        "we are moving, send {order} to {street} instead.",
        "I typed the wrong house number {when}, it should be {street}.",
        "can {order} go to my office at {street}?",
        "my account still shows where I lived before, the new place is {street}.",
        "I forgot to say that I live at {street} now. It is about {order}.",
        "please deliver the {item} to my neighbour, {street}.",
    ),
    "payment": (
        "my card was charged twice {when} for {order}.",
        "can I settle the bill for {order} in three parts?",
        "the checkout refuses my credit card when I want to buy the {item}.",
        "which bank account do I transfer the price of the {item} to?",
        "the invoice for {order} shows a sum that I do not understand.",
        "is it possible to use a voucher and a card together for the {item}?",
    ),
    "technical problem": (
        "I can't log in since {when}, the page only shows an error.",
        "the app crashes each time I open the page of the {item}.",
        "your website stays blank when I look up {order}.",
        "the link for a new password, sent {when}, does not work.",
        "I press the button to rate the {item} and nothing happens.",
        "since the update {when} the pictures of the {item} no longer load.",
    ),
}


def customer_intent(rng: Random, index: int) -> Example:
    """A message to a shop, the six intents about equally often."""
    label = INTENTS[index % len(INTENTS)]
    body = fill(rng, pick(rng, INTENT_WORDS[label]), INTENT_WORDS)
    hello, bye = pick(rng, INTENT_WORDS["hello"]), pick(rng, INTENT_WORDS["bye"])
    text = rough(rng, f"{hello}{body if hello else sentence(body)}{bye}")
    return labelled("What does this customer want?", INTENTS, f"Message: {text}", label)


# ---- Arithmetic: sums bare and in words ----------------------------------------------------------

THINGS = (
    *("apples", "tickets", "bricks", "stamps", "chairs", "letters", "marbles", "boxes", "eggs"),
    *("photos", "pencils", "plates", "coins", "books", "candles", "seeds", "bottles"),
)
PEOPLE = (
    *("Ada", "Bruno", "Chen", "Dina", "Emil", "Farah", "Goran", "Hana", "Ivo", "Jasmin", "Kofi"),
    *("Lea", "Mateo", "Nora", "Oskar", "Priya"),
)


def arithmetic(rng: Random, index: int) -> Example:
    """A sum, difference, product or small word problem with one whole number as the answer."""
    who, thing = pick(rng, PEOPLE), pick(rng, THINGS)
    a, b = number(rng, 12, 480), number(rng, 3, 95)
    factor = number(rng, 2, 9)
    small = number(rng, 3, 40)
    given = number(rng, 1, min(a, 90))
    question, answer = (
        (f"What is {a} + {b}?", a + b),
        (f"What is {a + b} - {b}?", a),
        (f"What is {small} * {factor}?", small * factor),
        (f"Add {b} to {a}.", a + b),
        (f"{who} has {a} {thing} and gives {given} away. How many {thing} are left?", a - given),
        (f"{who} has {a} {thing} and finds {b} more. How many is that in all?", a + b),
        (
            f"{who} packs {factor} bags with {small} {thing} each. How many {thing} is that?",
            factor * small,
        ),
        (f"{who} shares {small * factor} {thing} among {factor} friends. How many each?", small),
        (
            f"{who} had {a} {thing}, bought {b} and lost {given}. How many {thing} now?",
            a + b - given,
        ),
    )[int(rng.random() * 9)]
    prompt = f"Answer with the number only.\n\nQuestion: {question}\n\nAnswer:"
    return {"prompt": prompt, "response": str(answer)}


# ---- Extraction: one detail out of a sentence ----------------------------------------------------

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
CITIES = (
    *("Lisbon", "Oslo", "Graz", "Leeds", "Porto", "Gdansk", "Lyon", "Turin", "Bergen", "Malmo"),
    *("Utrecht", "Basel", "Cork", "Ghent", "Split", "Bremen", "Seville", "Tartu", "Brno", "Patras"),
)
EVENTS = (
    *("the concert", "the training course", "the trade fair", "the board meeting", "the wedding"),
    *("the book launch", "the open day", "the chess final", "the inspection", "the summer party"),
)
DETAIL_TEMPLATES = (
    "{event} in {city} on {date} costs {amount} per person, says {who}.",
    "{who} paid {amount} for {event}, which takes place in {city} on {date}.",
    "On {date} {who} travels to {city} for {event}; the budget is {amount}.",
    "Please book {event} for {who}: {city}, {date}, no more than {amount}.",
    "{who} wrote that {event} moved to {city}. It is on {date} now and the fee stays at {amount}.",
    "We still owe {who} {amount} for {event} of {date} in {city}.",
    "The invoice of {date} over {amount} is for {event} in {city}; send it to {who}.",
    "{event} was a success: {who} raised {amount} in {city} on {date}.",
)


def extraction(rng: Random, index: int) -> Example:
    """A sentence full of details, and the question for one of them."""
    details = {
        "city": pick(rng, CITIES),
        "date": f"{number(rng, 1, 28)} {pick(rng, MONTHS)}",
        "amount": f"{number(rng, 2, 990)} {pick(rng, ('euros', 'dollars', 'pounds', 'francs'))}",
        "person": pick(rng, PEOPLE),
    }
    wanted = ("city", "date", "amount", "person")[index % 4]
    text = pick(rng, DETAIL_TEMPLATES).format(
        event=pick(rng, EVENTS), who=details["person"], **details
    )
    # The answer must stay findable letter by letter, so these sentences have no typos.
    prompt = (
        f"Copy the {wanted} from the sentence. Answer with the {wanted} only.\n\n"
        f"Sentence: {sentence(text)}\n\nAnswer:"
    )
    return {"prompt": prompt, "response": details[wanted]}


# ---- Urgency: which ticket can't wait ------------------------------------------------------------

URGENCY = ("urgent", "can wait")

URGENCY_WORDS: Words = {
    "system": (
        *("the booking system", "the web shop", "the mail server", "the payroll database"),
        *("the door control", "the phone line", "the backup server", "the till in hall two"),
        *("the label printer", "the patient archive", "the heating control", "the main router"),
    ),
    "team": (
        *(
            "accounting",
            "the night shift",
            "the whole ward",
            "sales",
            "the front desk",
            "logistics",
        ),
        *("the call centre", "our branch office", "the lab"),
    ),
    "soon": (
        *("in twenty minutes", "within the hour", "before noon today", "tonight", "right now"),
        *("any minute", "at three today"),
    ),
    "late": (
        *("next month", "some time this quarter", "after the holidays", "in the new year"),
        *("when you find the time", "at the next release", "whenever it suits you"),
    ),
    "aside": (
        *("", "", "", " Best, {team}", " Greetings from {team}.", " My extension is 214."),
        *(
            " I am in room 3 until four.",
            " Ask for Lea from {team}.",
            " This concerns {team} only.",
        ),
        *(" Sent from my phone.", " We had a word about {system} already."),
    ),
    "broken": (
        *("is down", "does not answer", "shows nothing but errors", "loses data"),
        *("went dark a moment ago", "keeps restarting", "is on fire, literally smoking"),
    ),
    "wish": (
        *("a darker colour for the menu", "a second screen", "a shorter form", "larger icons"),
        *("a new mouse mat", "an extra column in the report", "a nicer logo", "a training session"),
    ),
    "urgent": (
        "{system} {broken} and {team} can't work.",
        "since this morning {system} {broken}. Customers are waiting.",
        "{team} must send the figures {soon}, but {system} {broken}.",
        "someone outside has logged in to {system} and is copying files.",
        "water is dripping onto the rack with {system}, please come.",
        "no small matter: {system} {broken}, and the deadline is {soon}.",
        "sorry to bother you again about {wish}, forget it: {system} {broken}.",
        "we lose orders every minute because {system} {broken}.",
    ),
    "can wait": (
        "{team} would like {wish} in {system}, {late}.",
        "could you explain {late} how {system} makes its monthly report?",
        "{system} was down last year. Please add a note about it to the handbook {late}.",
        "no hurry: {team} wishes for {wish}, {late} is fine.",
        "{system} works fine again for {team}, thank you. You may close the ticket.",
        "{system} {broken} in the test room only, where nobody works. Look at it {late}.",
        "we plan to replace {system} {late} and want to hear your opinion.",
        "there is a spelling mistake on the start page of {system}.",
        "not urgent at all, but {wish} for {system} would please {team}.",
    ),
}


def ticket_urgency(rng: Random, index: int) -> Example:
    """A ticket; every third can't wait."""
    label = "urgent" if index % 3 == 1 else "can wait"
    text = fill(rng, pick(rng, URGENCY_WORDS[label]) + "{aside}", URGENCY_WORDS)
    question = "How urgent is this support ticket?"
    return labelled(question, URGENCY, f"Ticket: {rough(rng, sentence(text))}", label)


# ---- mydata: guests write about their stay -------------------------------------------------------

STAY_WORDS: Words = {
    "place": (
        *("guesthouse", "hotel", "hostel", "bistro", "tavern", "campsite", "bed and breakfast"),
        *("mountain lodge", "seaside inn", "pizzeria", "tea room"),
    ),
    "who": ("my wife and I", "the four of us", "our hiking club", "a colleague and I", "we"),
    "aside": (
        " We came by train and paid for everything in advance.",
        " It was the last week of September, and the weather was changeable.",
        " The {place} lies at the end of a long road through the vineyards.",
        " A friend had told us about it at a birthday party some years ago.",
        " There were about twenty other guests, most of them from abroad.",
        " Our room, number seven, was on the second floor next to the stairs.",
        " Parking is behind the house, and the bus stops across the street.",
        " It has belonged to the same family since nineteen sixty-two.",
    ),
    "good_thing": (
        *("the host greeted us with homemade cake", "the view over the bay took our breath away"),
        *("the soup tasted like my grandmother's", "the sheets smelled of lavender"),
        *("the waiter remembered our names", "the bathroom sparkled", "we slept like babies"),
        *("check-in was over in a blink", "the garden is a little paradise"),
        *("the chef cooked something special for our son", "breakfast was a feast"),
    ),
    "bad_thing": (
        *("the receptionist ignored us for half an hour", "the window faced a wall of bins"),
        *("the soup was cold and salty", "the sheets had stains", "the waiter rolled his eyes"),
        *("there was mould in the shower", "lorries kept us awake all night"),
        *("check-in took forever", "the garden is a building site"),
        *("they had lost our reservation", "breakfast was stale bread and instant coffee"),
    ),
    "good_end": (
        *("we will be back next summer", "a gem", "we left with a smile", "what a treat"),
        *("tell your friends about it", "we extended our visit by two nights"),
    ),
    "bad_end": (
        *(
            "we left a day early",
            "a nightmare",
            "we will stay elsewhere next time",
            "what a letdown",
        ),
        *("tell your friends to avoid it", "the bill was the final insult"),
    ),
    "positive": (
        "{who} spent a weekend at this {place}: {good_thing}, and {good_thing}. {good_end}.",
        "The outside of the {place} looks plain, yet {good_thing}. {good_end}.",
        "We had read dreadful things about this {place}. None of it is true: {good_thing}.",
        "{good_end}! At this {place} {good_thing}.",
        "Granted, {bad_thing}, but they made up for it at once, {good_thing}, and {good_end}.",
    ),
    "negative": (
        "{who} spent a weekend at this {place}: {bad_thing}, and {bad_thing}. {bad_end}.",
        "The outside of the {place} looks charming, yet {bad_thing}. {bad_end}.",
        "We had read wonderful things about this {place}. None of it is true: {bad_thing}.",
        "{bad_end}! At this {place} {bad_thing}.",
        "Granted, {good_thing}, but then {bad_thing}, {bad_thing}, and {bad_end}.",
    ),
}


def guest_review(rng: Random, index: int) -> Example:
    """What a guest wrote, good and bad in turn."""
    label = POLAR[index % 2]
    text = fill(rng, pick(rng, STAY_WORDS[label]) + "{aside}", STAY_WORDS)
    text = ". ".join(sentence(part) for part in text.split(". "))
    question = "A guest left this comment. Is it positive or negative?"
    return labelled(question, POLAR, f"Comment: {rough(rng, sentence(text))}", label)


# ---- Writing -------------------------------------------------------------------------------------

RECIPES = (
    Recipe(
        name="product_reviews",
        family="sentiment",
        kind="classification",
        metric="label_accuracy",
        labels=POLAR,
        notes="Imbalanced: 80 % positive. Negation, contrast and typos.",
        make=product_review,
    ),
    Recipe(
        name="customer_intent",
        family="intent",
        kind="classification",
        metric="label_accuracy",
        labels=INTENTS,
        notes="Six intents, equally often.",
        make=customer_intent,
    ),
    Recipe(
        name="arithmetic",
        family="arithmetic",
        kind="generation",
        metric="numeric_match",
        labels=None,
        notes="Numbers up to three digits, bare and in small word problems.",
        make=arithmetic,
    ),
    Recipe(
        name="extraction",
        family="extraction",
        kind="generation",
        metric="exact_match",
        labels=None,
        notes="One city, date, amount or person out of a sentence that holds all four.",
        make=extraction,
    ),
    Recipe(
        name="ticket_urgency",
        family="urgency",
        kind="classification",
        metric="label_accuracy",
        labels=URGENCY,
        notes="A third is urgent; words such as 'down' or 'urgent' stand in both classes.",
        make=ticket_urgency,
    ),
)


def new_rows(recipe_name: str, make: Callable[[Random, int], Example], n: int) -> list[Example]:
    """As many rows as asked for, no two with the same prompt (case aside)."""
    rng = Random(f"{SEED}/{recipe_name}")
    rows: list[Example] = []
    seen: set[str] = set()
    while len(rows) < n:
        row = make(rng, len(rows))
        key = row["prompt"].lower()
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def write_jsonl(path: Path, rows: Sequence[Example]) -> None:
    """One row per line."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def label_counts(rows: Sequence[Example]) -> dict[str, int] | None:
    """How often each label occurs; None where rows have no label."""
    counts = Counter(row["label"] for row in rows if "label" in row)
    return dict(counts.most_common()) or None


def write_dataset(folder: Path, recipe: Recipe) -> None:
    """train.jsonl, test.jsonl and meta.json of one recipe."""
    rows = new_rows(recipe.name, recipe.make, N_TRAIN + N_TEST)
    train, test = rows[:N_TRAIN], rows[N_TRAIN:]
    meta = {
        "name": recipe.name,
        "group": recipe.name,
        "family": recipe.family,
        "kind": recipe.kind,
        "labels": recipe.labels,
        "metric": recipe.metric,
        "licence": LICENCE,
        "notes": recipe.notes,
        "rows_train": len(train),
        "rows_test": len(test),
        "label_distribution_train": label_counts(train),
        "label_distribution_test": label_counts(test),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", train)
    write_jsonl(folder / "test.jsonl", test)
    text = json.dumps(meta, ensure_ascii=False, indent=1) + "\n"
    (folder / "meta.json").write_text(text, encoding="utf-8", newline="\n")


def write_examples(folder: Path) -> None:
    """All example datasets, and mydata.jsonl: the target that nobody has trained on."""
    for recipe in RECIPES:
        write_dataset(folder / recipe.name, recipe)
    write_jsonl(folder / "mydata.jsonl", new_rows("mydata", guest_review, N_MYDATA))


if __name__ == "__main__":
    write_examples(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
