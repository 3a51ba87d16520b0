"""A made-up source of each task of the suite: file contents, and the row that comes of the first.

Each is (contents of the files, what the prompt says after its first paragraph, the answer). No row
of a real benchmark is among them.
"""

import json


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


OPTIONS = "A. a red one\nB. a blue one\nC. none\nD. all"

MADE_UP = {
    "sst2": (["1 a  warm film \n0 a cold one\n"], "Sentence: a warm film", "positive"),
    "trec": (
        ["NUM:count How many legs has a spider ?\nHUM:ind Who knits ?\n"],
        "Question: How many legs has a spider ?",
        "number",
    ),
    "ag_news": (
        [
            "title,description,class\n"
            '"Shares, up","Wool Corp. &lt;WOOL.N&gt;, rose\\by  #36;2 on  quot;good quot; news",'
            "Business\nOne,two,Sports\n"
        ],
        'Headline: Shares, up\nText: Wool Corp. WOOL.N, rose by $2 on "good" news',
        "Business",
    ),
    "sms_spam": (
        [
            "v1,v2,,,\nham,Tea &amp; cake for å£2?,,,\nspam,WIN NOW,,,\n".encode("latin-1"),
        ],
        "Message: Tea & cake for £2?",
        "not spam",
    ),
    "tweet_emotion": (
        ["@user rain &amp; mud again \nsunny \x85 day \n", "3\n1\n"],
        "Tweet: @user rain & mud again",
        "sadness",
    ),
    "snips": (
        ["play a waltz \nis it cold in ulm\n", "PlayMusic\nGetWeather\n"],
        "Request: play a waltz",
        "PlayMusic",
    ),
    "davidson_hate": (
        [',count,class,tweet\n0,3,2,"""Two"" cats &amp; a\n\ndog"\n1,3,1,such a fool\n'],
        'Tweet: "Two" cats & a\n\ndog',
        "neither",
    ),
    "airline_sentiment": (
        ["tweet_id,airline_sentiment,text\n1,negative,@air late &lt;again&gt;\n2,neutral,when?\n"],
        "Tweet: @air late <again>",
        "negative",
    ),
    "customer_reviews": (
        ["it holds my tea .\nnice lid .\n", "it leaks .\n"],
        "Sentence: it holds my tea .",
        "positive",
    ),
    "jigsaw_toxic": (
        ['"""  Please sign, \n""""here"""" """,0\nyou fool,1\n'],
        'Comment: Please sign, \n"here',
        "not toxic",
    ),
    "hatecheck": (
        [",case_id,test_case,label_gold\n0,1,I like cats. ,non-hateful\n1,2,Bah. ,hateful\n"],
        "Message: I like cats.",
        "non-hateful",
    ),
    "tweet_irony": (
        ["what a great queue \nhello \n", "1\n0\n"],
        "Tweet: what a great queue",
        "irony",
    ),
    "subj": (
        ["a fine yarn &#233 ; . \n", "a sailor knits . \n"],
        "Sentence: a fine yarn &#233 ; .",
        "subjective",
    ),
    "tweet_hate": (["hello all \ngo away \n", "0\n1\n"], "Tweet: hello all", "not hateful"),
    "amazon_alexa_stars": (
        [
            "rating\tdate\tvariation\tverified_reviews\tfeedback\n"
            '4\t1-Jul-18\tGreen  Dot\t"A ""good"" one.  Small."\t1\n5\t1-Jul-18\tDot\t \t1\n'
        ],
        'Product: Amazon Green Dot\nReview: A "good" one. Small.',
        "4",
    ),
    "tweet_stance_climate": (["it rains \nso what \n", "2\n1\n"], "Tweet: it rains", "favor"),
    "snli": (
        ["premise\thypothesis\tlabel\nA cat sits.\tA cat runs.\t2\nA cat.\tA pet.\t0\n"],
        "Premise: A cat sits.\nHypothesis: A cat runs.",
        "contradiction",
    ),
    "mrpc": (
        [
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
            '1\t7\t8\t"Knit" more, he said.\tHe said: knit "more.\n0\t9\t10\tA.\tB.\n'
        ],
        'Sentence 1: "Knit" more, he said.\nSentence 2: He said: knit "more.',
        "yes",
    ),
    "imdb": (
        ['Sentiment\tText\nPositive\t"A ""fine"" yarn.<br /><br />See it."\nNegative\tNo.\n'],
        'Review: A "fine" yarn.\n\nSee it.',
        "positive",
    ),
    "yelp_stars": (
        [
            "text,label1,label2\n"
            '"Good, warm soup.",Business Category: Soup & Tea,Review Stars: 4.0\n'
            "Cold.,Business Category: Bars,Review Stars: 1.0\n"
        ],
        "Category: Soup & Tea\nReview: Good, warm soup.",
        "4",
    ),
    "mnli": (
        ["label\ttext1\ttext2\n1\tit 's wool &amp yarn\tit 's wool\n0\ta\tb\n"],
        "Premise: it 's wool &amp yarn\nHypothesis: it 's wool",
        "entailment",
    ),
    "boolq": (
        ["index\tpassage\tquestion\tlabel\n0\tWool -- It is warm.\tis wool warm\t1\n1\ta\tb\t0\n"],
        "Passage: Wool -- It is warm.\nQuestion: is wool warm?",
        "yes",
    ),
    "commonsense_qa": (
        [
            lines(
                {
                    "answerKey": "B",
                    "question": {
                        "stem": "Which yarn?",
                        "choices": [
                            {"label": letter, "text": text}
                            for letter, text in zip(
                                "ABCD", ("a red one", "a blue one", "none", "all"), strict=True
                            )
                        ],
                    },
                }
            )
        ],
        f"Question: Which yarn?\n{OPTIONS}",
        "B",
    ),
    "arc_challenge": (
        [
            json.dumps(
                [
                    {
                        "instruction": "Please choose the correct answer to the question: Which "
                        "yarn?\n\nAnswer1: a red one Answer2: a blue one Answer3: none Answer4: all"
                        "\n\nAnswer format: answer1/answer2/answer3/answer4",
                        "input": "",
                        "answer": "answer2",
                    }
                ]
            )
        ],
        f"Question: Which yarn?\n{OPTIONS}",
        "B",
    ),
    "mmlu": (
        [
            "question,choice0,choice1,choice2,choice3,answer\n"
            " Which yarn?,a red one,a blue one,none,all,1\n"
        ],
        f"Question: Which yarn?\n{OPTIONS}",
        "B",
    ),
    "aqua_rat": (
        [
            lines(
                {
                    "question": "Which yarn?",
                    "options": ["A)a red one", "B) a blue one", "C)none", "D)all"],
                    "rationale": "",
                    "correct": "B",
                }
            )
        ],
        f"Question: Which yarn?\n{OPTIONS}",
        "B",
    ),
    "code_alpaca": (
        [json.dumps([{"instruction": "Loop.", "input": "a = {x}\n  b", "output": "for:\n    x"}])],
        "Input:\na = {x}\n  b",
        "for:\n    x",
    ),
    "alpaca": (
        [json.dumps([{"instruction": "Name a yarn.", "input": "", "output": "Wool."}])],
        None,
        "Wool.",
    ),
    "gsm8k": (
        [lines({"question": "Two cats.  Legs?", "answer": "2 * 4 = <<2*4=8>>8\n#### 8"})],
        "Problem: Two cats. Legs?",
        "2 * 4 = 8\n#### 8",
    ),
    "dialogsum": (
        [lines({"dialogue": "#Person1#: Hm.\n#Person2#: Ha.", "summary1": "They hum."})],
        "#Person1#: Hm.\n#Person2#: Ha.",
        "They hum.",
    ),
    "mbpp": (
        [
            lines(
                {
                    "problem": "Write one.",
                    "answer": "def one():\r\n    return 1",
                    "metadata": {"test_setup_code": "", "test_list": ["assert one()", "one()"]},
                }
            )
        ],
        "Task: Write one.\nYour code must pass these tests:\nassert one()\none()",
        "def one():\n    return 1",
    ),
    "banking77": (
        ['text,category\n"Where, please, is it?",card_arrival\nWhy?,age_limit\n'],
        "Customer: Where, please, is it?",
        "card_arrival",
    ),
}


def contents_of(name):
    """The files of a made-up source as bytes."""
    return [each if isinstance(each, bytes) else each.encode() for each in MADE_UP[name][0]]
