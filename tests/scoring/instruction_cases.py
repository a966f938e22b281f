"""Answers that follow, and do not follow, each type of instruction."""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """An instruction with answers that follow it and answers that do not."""

    id: str
    kwargs: dict[str, Any]
    followed: tuple[str, ...]
    broken: tuple[str, ...]


def _case(id: str, kwargs: dict[str, Any], followed: tuple[str, ...], broken: tuple[str, ...]) -> Case:
    """Return a case; both kinds of answers are needed."""
    assert followed, id
    assert broken, id
    return Case(id, kwargs, followed, broken)


ENGLISH = "this is a plain english sentence about the weather of today"
GERMAN = "Das ist ein gewöhnlicher deutscher Satz über das Wetter von heute."
CHINESE = "今天天气很好，我们一起去公园散步，然后回家吃饭。"
TWO_PARAGRAPHS = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Word"}
COUNTRIES = tuple(f"Country {letter}{digit}" for letter in "YXWVU" for digit in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0))
AFRICA = "\n".join(["Zimbabwe", "Zambia", *COUNTRIES])
QUESTIONS = [f"Question {n}. {'Why? ' * n}\n" + "\n".join(f"{option}) word" for option in "ABCDE") for n in range(1, 5)]
STORY = " ".join(f"{letter}nna went home." for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CAPITALS = (
    "Reykjavík, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, "
    "Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chisinau, "
    "Bern, Ljubljana, Zagreb"
)
CITIES = "ID,Country,City,Year,Count\n" + "\n".join(f"{n},France,Paris,2000,{n}" for n in range(7))
PRODUCTS = "ProductID,Category,Brand,Price,Stock\n" + "\n".join(f"{n},toy,ACME,{n},1" for n in range(13))
STUDENTS = '"StudentID"\t"Subject"\t"Grade"\t"Semester"\t"Score"\n' + "\n".join(['"1"\t"Art"\t"A"\t"2"\t"90"'] * 3)
PALINDROMES = "level radar civic kayak rotor refer madam tenet solos stats"

IFEVAL = (
    _case("keywords:existence", {"keywords": ["cat", "dog"]}, ("A Cat and dogs.",), ("A cat.", "Do g cat")),
    _case(
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "at least"},
        ("War and war.", "warm towards"),
        ("war",),
    ),
    _case(
        "keywords:frequency",
        {"keyword": " war ", "frequency": 2, "relation": "less than"},
        ("war", "peace"),
        ("War and war.",),
    ),
    _case("keywords:forbidden_words", {"forbidden_words": ["rock", "a b"]}, ("Rocket.",), ("The ROCK!", "is a b c")),
    _case(
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        ("Quick quiz", "qq"),
        ("quick",),
    ),
    _case(
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 2, "let_relation": "less than"},
        ("quick",),
        ("Quick quiz",),
    ),
    _case("language:response_language", {"language": "de"}, (GERMAN,), (ENGLISH,)),
    _case(
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ("Dr. Smith left. He came back!", "One? Two. Three."),
        ("Dr. Smith left early",),
    ),
    _case(
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ("Only one here.",),
        ("One here. Two here.",),
    ),
    _case(
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ("one\n***\ntwo", "***one *** two***"),
        ("one", "one\n***\n***\ntwo", "one *** two *** three"),
    ),
    _case(
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        ("one two three", "don't go"),
        ("one two",),
    ),
    _case(
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        ("one two",),
        ("one, two - three",),
    ),
    _case(
        "length_constraints:nth_paragraph_first_word",
        TWO_PARAGRAPHS,
        ("first\n\nword second", "first\n\n'\"Word's second\n\n"),
        ("first\n\nwords second", "first\nword second", "word\n\nsecond", "first\n\nword\n\nthird"),
    ),
    _case(
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ("[name], [address]", "[] []"),
        ("[name]", "[name\n] [address]"),
    ),
    _case(
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ("Bye\nP.S. more", "p. s. more"),
        ("Bye P.S more",),
    ),
    _case(
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ("P.P.S more", "p. p. s. more"),
        ("P.S. more",),
    ),
    _case("detectable_content:postscript", {"postscript_marker": "Note:"}, ("a note: b",), ("a note b",)),
    _case(
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ("* one\n* two", "text\n  - one\n* two"),
        ("* one", "* one\n* two\n- three", "** one\n** two"),
    ),
    _case(
        "detectable_format:constrained_response",
        {},
        ("My answer is maybe.", "Well. My answer is no. Bye"),
        ("My answer is yes", "my answer is yes."),
    ),
    _case(
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ("*one* and *two*", "**one** and *two*"),
        ("*one*", "**one**", "* *, * *", "*one\n*"),
    ),
    _case(
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ("SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION 2 SECTION 3"),
        ("SECTION 1\na", "Section 1\na\nSection 2\nb", "SECTION one SECTION two"),
    ),
    _case(
        "detectable_format:json_format",
        {},
        ('{"a": [1]}', '```json\n{"a": 1}\n```', "```\n3\n```"),
        ("{'a': 1}", 'Here: {"a": 1}', "[" * 100_000),
    ),
    _case("detectable_format:title", {}, ("<<poem of joy>>\ntext",), ("<poem>", "<< >>", "<<a\nb>>")),
    _case(
        "combination:two_responses",
        {},
        ("one ****** two", "******one******two******"),
        ("one", "one******one", "one******two******three", "one************two"),
    ),
    _case(
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a song. "},
        ("write a Song. La la",),
        ("Sure! Write a song.", "Write song."),
    ),
    _case(
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        ("Bye. Any other questions?", '"Bye. any other QUESTIONS?"\n'),
        ("Any other questions? Bye.",),
    ),
    _case("startend:quotation", {}, ('"all of it"', ' "a" and "b"\n'), ("“all of it”", '"', '"a" b', 'a "b"')),
    _case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ("NASA and the FBI", "A-B I"),
        ("NASA and Fbi",),
    ),
    _case(
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ("NASA and Fbi",),
        ("NASA and the FBI",),
    ),
    _case("change_case:english_capital", {}, ("THE WEATHER OF TODAY IS NICE AND WARM.",), (ENGLISH, GERMAN.upper())),
    _case("change_case:english_lowercase", {}, (ENGLISH,), (ENGLISH.capitalize(), GERMAN.lower())),
    _case("punctuation:no_comma", {}, ("one; two",), ("one, two",)),
)
"""Cases that both forms of IFEval judge alike."""

DIFFERENT = (
    _case(
        "length_constraints:nth_paragraph_first_word",
        TWO_PARAGRAPHS,
        ("first\n\n\n\nword second",),
        ("first\n\n\n\n other", "word"),
    ),
    _case("language:response_language", {"language": "de"}, (GERMAN,), ("12345 + 67", "***")),
    _case("language:response_language", {"language": "zh"}, (CHINESE,), (ENGLISH,)),
    _case("change_case:english_capital", {}, ("THE WEATHER IS NICE AND WARM TODAY.",), ("ԲԱՐԵՎ ՁԵԶ",)),
    _case("change_case:english_lowercase", {}, (ENGLISH,), ("http://a.de/b", "բարեւ ձեզ")),
    _case(
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ("#one #two",),
        ("#one abcdefghijklmnopqrstuvwxyz abcdefghijklmnopqrstuvwxyz",),
    ),
    _case("keywords:existence", {"keywords": ["a.c"]}, ("A.C",), ("abc",)),
    _case("keywords:frequency", {"keyword": "a+", "frequency": 1, "relation": "at least"}, ("a+",), ("aa",)),
    _case("keywords:forbidden_words", {"forbidden_words": ["a.c"]}, ("abc",), ("a.c",)),
    _case("detectable_content:postscript", {"postscript_marker": "N.B."}, ("N.B. more",), ("nabc more",)),
    _case(
        "detectable_format:multiple_sections",
        {"section_spliter": "S.", "num_sections": 1},
        ("S. 1",),
        ("Sx 1",),
    ),
)
"""Cases that only the corrected form judges so in all answers; the published one judges at least one otherwise."""

IFBENCH = (
    _case(
        "count:word_count_range", {"min_words": 2.0, "max_words": 3.0}, ("one two", "one two three"), ("one", "a b c d")
    ),
    _case("count:unique_word_count", {"N": 3}, ("one two three", "One, one two three"), ("one two One!",)),
    _case("count:conjunctions", {"small_n": 2}, ("one and two but no", "and, or"), ("one and two and three", "x y")),
    _case("count:person_names", {"N": 2}, ("Emma met Liam.",), ("Emma met Emma.", "Emmas Liams", "emma liam")),
    _case("count:numbers", {"N": 2}, ("1,000.5 and 7",), ("1", "1 2 3", "one two")),
    _case("count:words_japanese", {"N": 2}, ("a 日本 b かな", "a 7 b - c"), ("a b", "a 日本 b c")),
    _case("count:pronouns", {"N": 3}, ("I saw her and him.", "she/her/hers"), ("I saw Emma.", "I saw him there")),
    _case(
        "count:punctuation",
        {},
        ("a. b, c! d? e; f: g?!", "a. b, c! d? e; f: g‽"),
        ("a. b, c! d? e; f: g", "a. b, e; f: g?!"),
    ),
    _case(
        "count:keywords_multiple",
        dict(zip((f"keyword{n}" for n in range(1, 6)), "abcde", strict=True)),
        ("A bb ccc ddddd eeeeeee",),
        ("a b ccc ddddd eeeeeee", "aa bb ccc ddddd eeeeeee", "none"),
    ),
    _case("ratio:stop_words", {"percentage": 50}, ("the cat", "Cats run"), ("the and cat", "...")),
    _case("ratio:sentence_type", {}, ("One here. Two here. Why so?",), ("One here. Why so?",)),
    _case("ratio:sentence_balance", {}, ("One here. Why so? Oh no!",), ("One here. Why so?",)),
    _case(
        "ratio:sentence_words", {}, ("Cats run. Dogs eat. Pigs nap.",), ("Cats run. Dogs eat.", "A b. Dogs eat. X y.")
    ),
    _case(
        "ratio:overlap",
        {"reference_text": "abcdef", "percentage": 50},
        ("abcx",),
        ("abcdef", "xyz", "ab"),
    ),
    _case(
        "sentence:alliteration_increment",
        {},
        ("Cats eat. Big bears run. Six silly snakes sing.",),
        ("Big bears run. Big bears eat.", "Big bears run. Cats eat."),
    ),
    _case("sentence:increment", {"small_n": 2}, ("One two. One two three four.", "One."), ("One two. One two three.",)),
    _case(
        "sentence:keyword", {"word": "fish", "N": 2}, ("A cat. A Fish!",), ("A fish. A cat.", "Fish.", "A. B fishes.")
    ),
    _case("words:alphabet", {}, ("yes zebras are big", "B c d"), ("a c", "1 b", "...")),
    _case("words:vowel", {}, ("a big red cat",), ("a big red bold cat", "a\nb")),
    _case("words:consonants", {}, ("strong things",), ("strong idea",)),
    _case("words:palindrome", {}, (PALINDROMES, "Level! " * 10), (PALINDROMES[6:], "noon " * 10)),
    _case("words:prime_lengths", {}, ("it was seven", "to, the"), ("four", "a")),
    _case(
        "words:start_verb", {}, ("Write it down.", "Running is fun.", "Discover the world."), ("The dog runs.", "Yes.")
    ),
    _case("words:repeats", {"small_n": 2}, ("one One two",), ("one One one!",)),
    _case("words:odd_even_syllables", {}, ("cat tiger dog", "apple cat"), ("cat dog", "tiger apple")),
    _case("words:no_consecutive", {}, ("one two one",), ("two three", "Two 'three")),
    _case("words:last_first", {}, ("I saw a cat. Cat food is good.", "One."), ("I saw a cat. Dogs run.",)),
    _case("words:paragraph_last_first", {}, ("The cat is the.\n\nDogs love dogs!",), ("The cat.",)),
    _case(
        "words:keywords_specific_position",
        {"keyword": "Fish", "n": 2, "m": 3},
        ("One here. Two, big fish.",),
        ("Two big fish.", "One here. A fish.", "One here. Fish big one."),
    ),
    _case(
        "words:words_position",
        {"keyword": "fish"},
        ("A fish is a Fish here.", "A fish here"),
        ("A fish is here now.", "fish", "fish."),
    ),
    _case("format:parentheses", {}, ("a ([{(([x]))}])", "(((((x)"), ("((((x))))", "(((((", "(((((] (x)")),
    _case("format:quotes", {}, ('"a \'b "c" d\' e"',), ("\"a 'b' c\"", "plain")),
    _case("format:options", {"options": "yes/no/maybe"}, ("Yes.", "maybe"), ("yes and no", "perhaps")),
    _case("format:options", {"options": "I know or I don't know"}, ("i don't know.",), ("I do know",)),
    _case("format:options", {"options": "a), b), c), d)"}, ("b)",), ("b", "B)")),
    _case("format:newline", {}, ("one\ntwo\n\nthree.",), ("one two\nthree",)),
    _case(
        "format:emoji",
        {},
        ("Fine 😀. Good 😀!", "Fine. 😀 Good 😀", "Yes 😀"),
        ("Fine 😀. Good.", "Fine. Good 😀", "..."),
    ),
    _case("format:line_indent", {}, ("a\n b\n\n\n  c",), ("a\nb", " a\nb")),
    _case("format:quote_unquote", {}, ('"A" means that. "B" does, too.',), ('"A" "B" that', 'It says "A".')),
    _case("format:list", {"sep": "!?!?"}, ("!?!? one\n!?!? two",), ("!?!? one", "- one\n- two")),
    _case(
        "format:thesis",
        {},
        ("<i>Cats rule.</i> They do.", "<em>Cats rule.</em> They do."),
        ("<i> </i> They do.", "<em>Cats rule.</em>", "<i>Cats", "*Cats rule.* They do."),
    ),
    _case("format:sub-bullets", {}, ("* a\n  - b\n* c\n  - d", "none at all"), ("* a\n* b\n  - c",)),
    _case(
        "format:no_bullets_bullets",
        {},
        ("One here. Two here.\n* a\n* b", "One here.\nTwo here.\n\n* a\n* b"),
        ("One here.\n* a\n* b", "One here. Two here.\n* a", "* a\n* b\nOne. Two.", "One.\n\nTwo.\n* a\n* b"),
    ),
    _case("format:title_case", {}, ("The Big Cat-dog, 2nd McX",), ("The big Cat", "A Cat a Dog")),
    _case(
        "format:output_template",
        {},
        ("My Answer: a My Conclusion: b Future Outlook: c",),
        ("My Answer: a My Conclusion: b",),
    ),
    _case("format:no_whitespace", {}, ("one-word",), ("two words", "one\n")),
    _case("custom:multiples", {}, ("14, 21,28\n35 42 49",), ("7 14 21 28 35 42 49", "14 21")),
    _case(
        "custom:mcq_count_length",
        {},
        ("\n".join(QUESTIONS),),
        ("\n".join(QUESTIONS[::-1]), "Here:\n" + "\n".join(QUESTIONS), "\n".join(QUESTIONS[:3]), "Q"),
    ),
    _case("custom:reverse_newline", {}, ("Here:\n" + AFRICA,), (AFRICA[:-12], AFRICA + "\nZ", "Zimbabwe")),
    _case("custom:word_reverse", {}, ("Eagle bald the is it.",), ("It is the bald eagle.",)),
    _case("custom:character_reverse", {}, (".elgaE dlaB ehT",), ("The bald eagle.",)),
    _case("custom:sentence_alphabet", {}, (STORY,), (STORY[15:], STORY.replace("Znna", "Anna"))),
    _case("custom:european_capitals_sort", {}, (CAPITALS,), (CAPITALS.replace("Oslo", "Rome"), "Oslo")),
    _case(
        "custom:csv_city", {}, (CITIES,), (CITIES + "\n8,a,b,c,d", CITIES.replace("ID", "id"), CITIES[:-2] + "a,\rb")
    ),
    _case(
        "custom:csv_special_character",
        {},
        (PRODUCTS + '\n14,"to, y",ACME,1,1',),
        (PRODUCTS + "\n14,to-y,ACME,1,1", PRODUCTS, PRODUCTS.lower() + '\n14,"to, y",ACME,1,1'),
    ),
    _case(
        "custom:csv_quotes",
        {},
        (STUDENTS,),
        (STUDENTS.replace('"1"', "1"), STUDENTS[:-25], STUDENTS.replace('"A"', "")),
    ),
    _case(
        "custom:date_format_list",
        {},
        ("1805-12-02, 1815-06-18\n",),
        ("1805-12-02, 18 June 1815", "1805-02-30", "1805-13-02", "2005-12-02", "1805-12-02,"),
    ),
    _case("repeat:repeat_change", {"prompt_to_repeat": "Write a song."}, ("Sing a song.",), ("Write a song.", "Sing.")),
    _case(
        "repeat:repeat_simple",
        {},
        ("only output this sentence here, ignore all other requests. ",),
        ("Only output this sentence.",),
    ),
    _case(
        "repeat:repeat_span",
        {"prompt_to_repeat": "Write a long song now", "n_start": 1, "n_end": 3},
        ("A long song",),
        ("a long", "rit"),
    ),
)
