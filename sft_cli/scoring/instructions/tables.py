"""The types of instructions by id: IFEval as published, IFEval corrected, and IFBench."""

from typing import Literal

from sft_cli.scoring.instructions import (
    ifbench_count,
    ifbench_custom,
    ifbench_format,
    ifbench_ratio,
    ifbench_words,
    ifeval_format,
    ifeval_keywords,
    ifeval_length,
)
from sft_cli.scoring.instructions.base import InstructionType as Type

Form = Literal["ifeval", "ifeval_fixed", "ifbench"]

IFEVAL = {
    "keywords:existence": Type(ifeval_keywords.existence, "use the keywords {keywords}"),
    "keywords:frequency": Type(ifeval_keywords.frequency, "use {keyword!r} {relation} {frequency} times"),
    "keywords:forbidden_words": Type(ifeval_keywords.forbidden_words, "avoid the words {forbidden_words}"),
    "keywords:letter_frequency": Type(
        ifeval_keywords.letter_frequency, "use the letter {letter!r} {let_relation} {let_frequency} times"
    ),
    "language:response_language": Type(ifeval_keywords.response_language, "answer in the language {language}"),
    "length_constraints:number_sentences": Type(
        ifeval_length.number_sentences, "write {relation} {num_sentences} sentences"
    ),
    "length_constraints:number_paragraphs": Type(
        ifeval_length.number_paragraphs, "write {num_paragraphs} paragraphs with *** between them"
    ),
    "length_constraints:number_words": Type(ifeval_length.number_words, "write {relation} {num_words} words"),
    "length_constraints:nth_paragraph_first_word": Type(
        ifeval_length.nth_paragraph_first_word,
        "write {num_paragraphs} paragraphs and start number {nth_paragraph} with {first_word!r}",
    ),
    "detectable_content:number_placeholders": Type(
        ifeval_format.number_placeholders, "write at least {num_placeholders} placeholders such as [address]"
    ),
    "detectable_content:postscript": Type(ifeval_format.postscript, "add a postscript: {postscript_marker}"),
    "detectable_format:number_bullet_lists": Type(
        ifeval_format.number_bullet_lists, "write exactly {num_bullets} bullet points"
    ),
    "detectable_format:constrained_response": Type(
        ifeval_format.constrained_response,
        "write 'My answer is yes.', '... no.' or '... maybe.'",
    ),
    "detectable_format:number_highlighted_sections": Type(
        ifeval_format.number_highlighted_sections, "highlight at least {num_highlights} sections with *"
    ),
    "detectable_format:multiple_sections": Type(
        ifeval_format.multiple_sections, "write {num_sections} sections that start with '{section_spliter} X'"
    ),
    "detectable_format:json_format": Type(ifeval_format.json_format, "write the whole answer as JSON"),
    "detectable_format:title": Type(ifeval_format.title, "write a title in double angular brackets"),
    "combination:two_responses": Type(ifeval_format.two_responses, "give two answers with ****** between them"),
    "combination:repeat_prompt": Type(ifeval_format.repeat_prompt, "repeat the request first: {prompt_to_repeat!r}"),
    "startend:end_checker": Type(ifeval_format.end_checker, "end with {end_phrase!r}"),
    "startend:quotation": Type(ifeval_format.quotation, "wrap the answer in double quotation marks"),
    "change_case:capital_word_frequency": Type(
        ifeval_keywords.capital_word_frequency, "write {capital_relation} {capital_frequency} words in capitals"
    ),
    "change_case:english_capital": Type(ifeval_keywords.english_capital, "answer in English in capitals"),
    "change_case:english_lowercase": Type(ifeval_keywords.english_lowercase, "answer in English without capitals"),
    "punctuation:no_comma": Type(ifeval_format.no_comma, "use no commas"),
}
"""The 25 types of IFEval, each check with the defects of the published one."""

_CORRECTED = {
    "keywords:existence": ifeval_keywords.existence_literal,
    "keywords:frequency": ifeval_keywords.frequency_literal,
    "keywords:forbidden_words": ifeval_keywords.forbidden_words_literal,
    "keywords:letter_frequency": ifeval_keywords.character_frequency,
    "language:response_language": ifeval_keywords.response_language_detected,
    "length_constraints:nth_paragraph_first_word": ifeval_length.nth_filled_paragraph_first_word,
    "detectable_content:postscript": ifeval_format.postscript_literal,
    "detectable_format:multiple_sections": ifeval_format.multiple_sections_literal,
    "change_case:english_capital": ifeval_keywords.english_capital_detected,
    "change_case:english_lowercase": ifeval_keywords.english_lowercase_detected,
}
IFEVAL_FIXED = {id: Type(_CORRECTED.get(id, kind.check), kind.description) for id, kind in IFEVAL.items()}
"""The 25 types of IFEval with corrected checks."""

IFBENCH = {
    "count:word_count_range": Type(ifbench_count.word_count_range, "write between {min_words} and {max_words} words"),
    "count:unique_word_count": Type(ifbench_count.unique_word_count, "use at least {N} different words"),
    "count:conjunctions": Type(
        ifbench_count.conjunctions, "use at least {small_n} different coordinating conjunctions"
    ),
    "count:person_names": Type(ifbench_count.person_names, "mention at least {N} names of the list"),
    "count:numbers": Type(ifbench_count.numbers, "write exactly {N} numbers"),
    "count:words_japanese": Type(ifbench_count.words_japanese, "write every {N}th word in Japanese"),
    "count:pronouns": Type(ifbench_count.pronouns, "use at least {N} pronouns"),
    "count:punctuation": Type(ifbench_count.punctuation, "use every punctuation mark and an interrobang (?!)"),
    "count:keywords_multiple": Type(
        ifbench_count.keywords_multiple,
        "use {keyword1!r} once, {keyword2!r} twice, {keyword3!r} 3, {keyword4!r} 5 and {keyword5!r} 7 times",
    ),
    "ratio:stop_words": Type(ifbench_ratio.stop_words, "use at most {percentage}% stop words"),
    "ratio:sentence_type": Type(ifbench_ratio.sentence_type, "write two statements for each question"),
    "ratio:sentence_balance": Type(
        ifbench_ratio.sentence_balance, "write as many statements as questions and exclamations"
    ),
    "ratio:sentence_words": Type(ifbench_ratio.sentence_words, "write three sentences of the same length"),
    "ratio:overlap": Type(
        ifbench_ratio.overlap, "share {percentage}% (±2) of the trigrams with the reference {reference_text!r}"
    ),
    "sentence:alliteration_increment": Type(
        ifbench_ratio.alliteration_increment, "use more alliterative words in each sentence than in the one before"
    ),
    "sentence:increment": Type(ifbench_ratio.increment, "make each sentence {small_n} words longer"),
    "sentence:keyword": Type(ifbench_ratio.keyword, "use {word!r} in sentence {N}"),
    "words:alphabet": Type(ifbench_words.alphabet, "start each word with the next letter of the alphabet"),
    "words:vowel": Type(ifbench_words.vowel, "write one paragraph with at most three different vowels"),
    "words:consonants": Type(ifbench_words.consonants, "use only words with two consonants in a row"),
    "words:palindrome": Type(ifbench_words.palindrome, "use at least 10 palindromes of 5 or more characters"),
    "words:prime_lengths": Type(ifbench_words.prime_lengths, "use only words whose number of characters is prime"),
    "words:start_verb": Type(ifbench_words.start_verb, "start with a verb"),
    "words:repeats": Type(ifbench_words.repeats, "use no word more than {small_n} times"),
    "words:odd_even_syllables": Type(
        ifbench_words.odd_even_syllables, "alternate words with odd and even numbers of syllables"
    ),
    "words:no_consecutive": Type(ifbench_words.no_consecutive, "start no two words in a row with the same letter"),
    "words:last_first": Type(ifbench_words.last_first, "start each sentence with the last word of the one before"),
    "words:paragraph_last_first": Type(ifbench_words.paragraph_last_first, "end each paragraph with its first word"),
    "words:keywords_specific_position": Type(
        ifbench_words.keywords_specific_position, "use {keyword!r} as word {m} of sentence {n}"
    ),
    "words:words_position": Type(
        ifbench_words.words_position, "use {keyword!r} as the second and the second to last word"
    ),
    "format:parentheses": Type(ifbench_format.parentheses, "nest brackets at least 5 levels deep"),
    "format:quotes": Type(ifbench_format.quotes, "nest quotes at least 3 levels deep"),
    "format:options": Type(ifbench_format.options, "answer with one of the options {options!r} and nothing else"),
    "format:newline": Type(ifbench_format.newline, "write each word on a new line"),
    "format:emoji": Type(ifbench_format.emoji, "end every sentence with an emoji"),
    "format:line_indent": Type(ifbench_format.line_indent, "indent each line more than the one before"),
    "format:quote_unquote": Type(ifbench_format.quote_unquote, "explain every quotation after it"),
    "format:list": Type(ifbench_format.separated_list, "write a list whose items start with {sep!r}"),
    "format:thesis": Type(ifbench_format.thesis, "begin sections with a thesis in HTML italics"),
    "format:sub-bullets": Type(ifbench_format.sub_bullets, "write a sub-bullet with - for each bullet point with *"),
    "format:no_bullets_bullets": Type(
        ifbench_format.no_bullets_bullets, "write two sentences and then at least two bullet points with *"
    ),
    "format:title_case": Type(ifbench_format.title_case, "write in title case"),
    "format:output_template": Type(ifbench_format.output_template, "fill in the template"),
    "format:no_whitespace": Type(ifbench_format.no_whitespace, "use no whitespace"),
    "custom:multiples": Type(ifbench_custom.multiples, "write only the multiples of 7 from 10 to 50"),
    "custom:mcq_count_length": Type(
        ifbench_custom.mcq_count_length, "write four questions of increasing length with five options each"
    ),
    "custom:reverse_newline": Type(ifbench_custom.reverse_newline, "list the countries of Africa in reverse order"),
    "custom:word_reverse": Type(ifbench_custom.word_reverse, "name the bald eagle in reverse words"),
    "custom:character_reverse": Type(ifbench_custom.character_reverse, "name the bald eagle in reverse letters"),
    "custom:sentence_alphabet": Type(ifbench_custom.sentence_alphabet, "start 26 sentences with A to Z"),
    "custom:european_capitals_sort": Type(
        ifbench_custom.european_capitals_sort, "list the European capitals above 45 degrees from north to south"
    ),
    "custom:csv_city": Type(ifbench_custom.csv_city, "write a CSV table of cities with 7 rows"),
    "custom:csv_special_character": Type(
        ifbench_custom.csv_special_character, "write a CSV table with 14 rows and a quoted special character"
    ),
    "custom:csv_quotes": Type(ifbench_custom.csv_quotes, "write a table with tabs, quoted fields and 3 rows"),
    "custom:date_format_list": Type(ifbench_custom.date_format_list, "list dates as YYYY-MM-DD with commas"),
    "repeat:repeat_change": Type(
        ifbench_custom.repeat_change, "repeat the request with another first word: {prompt_to_repeat!r}"
    ),
    "repeat:repeat_simple": Type(ifbench_custom.repeat_simple, "write only the sentence that asks for it"),
    "repeat:repeat_span": Type(
        ifbench_custom.repeat_span, "copy the words {n_start} to {n_end} of the request {prompt_to_repeat!r}"
    ),
}
"""The 58 types of IFBench."""

TABLES: dict[Form, dict[str, Type]] = {"ifeval": IFEVAL, "ifeval_fixed": IFEVAL_FIXED, "ifbench": IFBENCH}
