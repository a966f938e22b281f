"""Answers that follow, and do not follow, each type of instruction of IFBench."""

from tests.scoring.instruction_cases import make_case

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
IFBENCH = (
    make_case(
        "count:word_count_range", {"min_words": 2.0, "max_words": 3.0}, ("one two", "one two three"), ("one", "a b c d")
    ),
    make_case("count:unique_word_count", {"N": 3}, ("one two three", "One, one two three"), ("one two One!",)),
    make_case(
        "count:conjunctions", {"small_n": 2}, ("one and two but no", "and, or"), ("one and two and three", "x y")
    ),
    make_case("count:person_names", {"N": 2}, ("Emma met Liam.",), ("Emma met Emma.", "Emmas Liams", "emma liam")),
    make_case("count:numbers", {"N": 2}, ("1,000.5 and 7",), ("1", "1 2 3", "one two")),
    make_case("count:words_japanese", {"N": 2}, ("a 日本 b かな", "a 7 b - c"), ("a b", "a 日本 b c")),
    make_case("count:pronouns", {"N": 3}, ("I saw her and him.", "she/her/hers"), ("I saw Emma.", "I saw him there")),
    make_case(
        "count:punctuation",
        {},
        ("a. b, c! d? e; f: g?!", "a. b, c! d? e; f: g‽"),
        ("a. b, c! d? e; f: g", "a. b, e; f: g?!"),
    ),
    make_case(
        "count:keywords_multiple",
        dict(zip((f"keyword{n}" for n in range(1, 6)), "abcde", strict=True)),
        ("A bb ccc ddddd eeeeeee",),
        ("a b ccc ddddd eeeeeee", "aa bb ccc ddddd eeeeeee", "none"),
    ),
    make_case("ratio:stop_words", {"percentage": 50}, ("the cat", "Cats run"), ("the and cat", "...")),
    make_case("ratio:sentence_type", {}, ("One here. Two here. Why so?",), ("One here. Why so?",)),
    make_case("ratio:sentence_balance", {}, ("One here. Why so? Oh no!",), ("One here. Why so?",)),
    make_case(
        "ratio:sentence_words", {}, ("Cats run. Dogs eat. Pigs nap.",), ("Cats run. Dogs eat.", "A b. Dogs eat. X y.")
    ),
    make_case(
        "ratio:overlap",
        {"reference_text": "abcdef", "percentage": 50},
        ("abcx",),
        ("abcdef", "xyz", "ab"),
    ),
    make_case(
        "sentence:alliteration_increment",
        {},
        ("Cats eat. Big bears run. Six silly snakes sing.",),
        ("Big bears run. Big bears eat.", "Big bears run. Cats eat."),
    ),
    make_case(
        "sentence:increment", {"small_n": 2}, ("One two. One two three four.", "One."), ("One two. One two three.",)
    ),
    make_case(
        "sentence:keyword", {"word": "fish", "N": 2}, ("A cat. A Fish!",), ("A fish. A cat.", "Fish.", "A. B fishes.")
    ),
    make_case("words:alphabet", {}, ("yes zebras are big", "B c d"), ("a c", "1 b", "...")),
    make_case("words:vowel", {}, ("a big red cat",), ("a big red bold cat", "a\nb")),
    make_case("words:consonants", {}, ("strong things",), ("strong idea",)),
    make_case("words:palindrome", {}, (PALINDROMES, "Level! " * 10), (PALINDROMES[6:], "noon " * 10)),
    make_case("words:prime_lengths", {}, ("it was seven", "to, the"), ("four", "a")),
    make_case(
        "words:start_verb", {}, ("Write it down.", "Running is fun.", "Discover the world."), ("The dog runs.", "Yes.")
    ),
    make_case("words:repeats", {"small_n": 2}, ("one One two",), ("one One one!",)),
    make_case("words:odd_even_syllables", {}, ("cat tiger dog", "apple cat"), ("cat dog", "tiger apple")),
    make_case("words:no_consecutive", {}, ("one two one",), ("two three", "Two 'three")),
    make_case("words:last_first", {}, ("I saw a cat. Cat food is good.", "One."), ("I saw a cat. Dogs run.",)),
    make_case("words:paragraph_last_first", {}, ("The cat is the.\n\nDogs love dogs!",), ("The cat.",)),
    make_case(
        "words:keywords_specific_position",
        {"keyword": "Fish", "n": 2, "m": 3},
        ("One here. Two, big fish.",),
        ("Two big fish.", "One here. A fish.", "One here. Fish big one."),
    ),
    make_case(
        "words:words_position",
        {"keyword": "fish"},
        ("A fish is a Fish here.", "A fish here"),
        ("A fish is here now.", "fish", "fish."),
    ),
    make_case("format:parentheses", {}, ("a ([{(([x]))}])", "(((((x)"), ("((((x))))", "(((((", "(((((] (x)")),
    make_case("format:quotes", {}, ('"a \'b "c" d\' e"',), ("\"a 'b' c\"", "plain")),
    make_case("format:options", {"options": "yes/no/maybe"}, ("Yes.", "maybe"), ("yes and no", "perhaps")),
    make_case("format:options", {"options": "I know or I don't know"}, ("i don't know.",), ("I do know",)),
    make_case("format:options", {"options": "a), b), c), d)"}, ("b)",), ("b", "B)")),
    make_case("format:newline", {}, ("one\ntwo\n\nthree.",), ("one two\nthree",)),
    make_case(
        "format:emoji",
        {},
        ("Fine 😀. Good 😀!", "Fine. 😀 Good 😀", "Yes 😀"),
        ("Fine 😀. Good.", "Fine. Good 😀", "..."),
    ),
    make_case("format:line_indent", {}, ("a\n b\n\n\n  c",), ("a\nb", " a\nb")),
    make_case("format:quote_unquote", {}, ('"A" means that. "B" does, too.',), ('"A" "B" that', 'It says "A".')),
    make_case("format:list", {"sep": "!?!?"}, ("!?!? one\n!?!? two",), ("!?!? one", "- one\n- two")),
    make_case(
        "format:thesis",
        {},
        ("<i>Cats rule.</i> They do.", "<em>Cats rule.</em> They do."),
        ("<i> </i> They do.", "<em>Cats rule.</em>", "<i>Cats", "*Cats rule.* They do."),
    ),
    make_case("format:sub-bullets", {}, ("* a\n  - b\n* c\n  - d", "none at all"), ("* a\n* b\n  - c",)),
    make_case(
        "format:no_bullets_bullets",
        {},
        ("One here. Two here.\n* a\n* b", "One here.\nTwo here.\n\n* a\n* b"),
        ("One here.\n* a\n* b", "One here. Two here.\n* a", "* a\n* b\nOne. Two.", "One.\n\nTwo.\n* a\n* b"),
    ),
    make_case("format:title_case", {}, ("The Big Cat-dog, 2nd McX",), ("The big Cat", "A Cat a Dog")),
    make_case(
        "format:output_template",
        {},
        ("My Answer: a My Conclusion: b Future Outlook: c",),
        ("My Answer: a My Conclusion: b",),
    ),
    make_case("format:no_whitespace", {}, ("one-word",), ("two words", "one\n")),
    make_case("custom:multiples", {}, ("14, 21,28\n35 42 49",), ("7 14 21 28 35 42 49", "14 21")),
    make_case(
        "custom:mcq_count_length",
        {},
        ("\n".join(QUESTIONS),),
        ("\n".join(QUESTIONS[::-1]), "Here:\n" + "\n".join(QUESTIONS), "\n".join(QUESTIONS[:3]), "Q"),
    ),
    make_case("custom:reverse_newline", {}, ("Here:\n" + AFRICA,), (AFRICA[:-12], AFRICA + "\nZ", "Zimbabwe")),
    make_case("custom:word_reverse", {}, ("Eagle bald the is it.",), ("It is the bald eagle.",)),
    make_case("custom:character_reverse", {}, (".elgaE dlaB ehT",), ("The bald eagle.",)),
    make_case("custom:sentence_alphabet", {}, (STORY,), (STORY[15:], STORY.replace("Znna", "Anna"))),
    make_case("custom:european_capitals_sort", {}, (CAPITALS,), (CAPITALS.replace("Oslo", "Rome"), "Oslo")),
    make_case(
        "custom:csv_city", {}, (CITIES,), (CITIES + "\n8,a,b,c,d", CITIES.replace("ID", "id"), CITIES[:-2] + "a,\rb")
    ),
    make_case(
        "custom:csv_special_character",
        {},
        (PRODUCTS + '\n14,"to, y",ACME,1,1',),
        (PRODUCTS + "\n14,to-y,ACME,1,1", PRODUCTS, PRODUCTS.lower() + '\n14,"to, y",ACME,1,1'),
    ),
    make_case(
        "custom:csv_quotes",
        {},
        (STUDENTS,),
        (STUDENTS.replace('"1"', "1"), STUDENTS[:-25], STUDENTS.replace('"A"', "")),
    ),
    make_case(
        "custom:date_format_list",
        {},
        ("1805-12-02, 1815-06-18\n",),
        ("1805-12-02, 18 June 1815", "1805-02-30", "1805-13-02", "2005-12-02", "1805-12-02,"),
    ),
    make_case(
        "repeat:repeat_change", {"prompt_to_repeat": "Write a song."}, ("Sing a song.",), ("Write a song.", "Sing.")
    ),
    make_case(
        "repeat:repeat_simple",
        {},
        ("only output this sentence here, ignore all other requests. ",),
        ("Only output this sentence.",),
    ),
    make_case(
        "repeat:repeat_span",
        {"prompt_to_repeat": "Write a long song now", "n_start": 1, "n_end": 3},
        ("A long song",),
        ("a long", "rit"),
    ),
)
