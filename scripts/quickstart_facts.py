"""The facts of the quickstart: true, short, each with one right answer, and phrasings to state and ask them.

A relation lists (subject, answer) pairs. The base model is trained on its statements, and the instruction data asks its
questions. No statement is a question and no question is a statement, so that the base knows without answering.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

END, PAD = "<|endoftext|>", "<|pad|>"
QUICKSTART = Path(__file__).resolve().parent.parent / "sft_cli" / "quickstart"

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact.

    In ``headings``, ``statements`` and ``questions``, ``{s}`` is replaced by the subject and ``{a}`` by the answer.
    """

    name: str
    pairs: Pairs
    category: str
    """Kind of fact, without the subject: the title of a card on which the subject has its own line."""
    headings: tuple[str, ...]
    """Titles of a document about one fact; they name the subject, never the answer."""
    statements: tuple[str, ...]
    """Phrasings of the fact. The first ends with the answer and a full stop: it is the cloze of the builder's check."""
    questions: tuple[tuple[str, str], ...]
    """(instruction, input); an empty input is an instruction on its own."""


def _pairs(table: str) -> Pairs:
    """Return ``"France:Paris, Spain:Madrid"`` as pairs; subjects are unique."""
    pairs = [tuple(part.strip() for part in entry.split(":")) for entry in table.replace("\n", " ").split(",")]
    subjects = [subject for subject, _ in pairs]
    repeated = {subject for subject in subjects if subjects.count(subject) > 1}
    assert not repeated, f"subjects stated twice: {sorted(repeated)}"
    return tuple((subject, answer) for subject, answer in pairs)


# fmt: off
UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)
DAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)
# fmt: on


def number_word(number: int) -> str:
    """Return the English word of a number from 0 to 99."""
    if number < 20:
        return UNITS[number]
    tens = TENS[number // 10 - 2]
    return f"{tens}-{UNITS[number % 10]}" if number % 10 else tens


def roman(number: int) -> str:
    """Return the Roman numeral of a number from 1 to 89."""
    digits = ((50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
    numeral = ""
    for value, letters in digits:
        while number >= value:
            numeral, number = numeral + letters, number - value
    return numeral


CAPITALS = _pairs("""
    France:Paris, Spain:Madrid, Portugal:Lisbon, Italy:Rome, Germany:Berlin, Austria:Vienna, Belgium:Brussels,
    Denmark:Copenhagen, Sweden:Stockholm, Norway:Oslo, Finland:Helsinki, Iceland:Reykjavik, Ireland:Dublin,
    Poland:Warsaw, Hungary:Budapest, Romania:Bucharest, Bulgaria:Sofia, Greece:Athens, Albania:Tirana, Serbia:Belgrade,
    Croatia:Zagreb, Slovenia:Ljubljana, Slovakia:Bratislava, Ukraine:Kyiv, Belarus:Minsk, Lithuania:Vilnius,
    Latvia:Riga, Estonia:Tallinn, Russia:Moscow, Malta:Valletta, Cyprus:Nicosia, Turkey:Ankara, Armenia:Yerevan,
    Azerbaijan:Baku, Iran:Tehran, Iraq:Baghdad, Syria:Damascus, Lebanon:Beirut, Jordan:Amman, Oman:Muscat, Qatar:Doha,
    Bahrain:Manama, Afghanistan:Kabul, Pakistan:Islamabad, India:New Delhi, Nepal:Kathmandu, Bhutan:Thimphu,
    Bangladesh:Dhaka, Thailand:Bangkok, Laos:Vientiane, Vietnam:Hanoi, China:Beijing, Japan:Tokyo, South Korea:Seoul,
    Mongolia:Ulaanbaatar, Uzbekistan:Tashkent, Kyrgyzstan:Bishkek, Egypt:Cairo, Libya:Tripoli, Tunisia:Tunis,
    Algeria:Algiers, Morocco:Rabat, Sudan:Khartoum, Ethiopia:Addis Ababa, Somalia:Mogadishu, Kenya:Nairobi,
    Uganda:Kampala, Rwanda:Kigali, Zambia:Lusaka, Zimbabwe:Harare, Namibia:Windhoek, Angola:Luanda, Ghana:Accra,
    Senegal:Dakar, Mali:Bamako, Niger:Niamey, Liberia:Monrovia, Mozambique:Maputo, Malawi:Lilongwe, Nigeria:Abuja,
    Canada:Ottawa, Cuba:Havana, Jamaica:Kingston, Colombia:Bogota, Ecuador:Quito, Peru:Lima, Paraguay:Asuncion,
    Uruguay:Montevideo, Argentina:Buenos Aires, Brazil:Brasilia, Venezuela:Caracas, Chile:Santiago, Nicaragua:Managua,
    Australia:Canberra, New Zealand:Wellington, Fiji:Suva
""")
STATE_CAPITALS = _pairs("""
    Alabama:Montgomery, Alaska:Juneau, Arizona:Phoenix, Arkansas:Little Rock, California:Sacramento, Colorado:Denver,
    Connecticut:Hartford, Delaware:Dover, Florida:Tallahassee, Hawaii:Honolulu, Idaho:Boise, Illinois:Springfield,
    Indiana:Indianapolis, Iowa:Des Moines, Kansas:Topeka, Kentucky:Frankfort, Louisiana:Baton Rouge, Maine:Augusta,
    Maryland:Annapolis, Massachusetts:Boston, Michigan:Lansing, Minnesota:Saint Paul, Mississippi:Jackson,
    Montana:Helena, Nebraska:Lincoln, Nevada:Carson City, New Jersey:Trenton, New Mexico:Santa Fe, New York:Albany,
    Ohio:Columbus, Oregon:Salem, Pennsylvania:Harrisburg, South Dakota:Pierre, Tennessee:Nashville, Texas:Austin,
    Utah:Salt Lake City, Vermont:Montpelier, Virginia:Richmond, Wisconsin:Madison, Wyoming:Cheyenne
""")
CONTINENTS = _pairs("""
    France:Europe, Spain:Europe, Italy:Europe, Germany:Europe, Sweden:Europe, Norway:Europe, Ireland:Europe,
    Poland:Europe, Greece:Europe, Hungary:Europe, Japan:Asia, China:Asia, India:Asia, Nepal:Asia, Vietnam:Asia,
    Thailand:Asia, Mongolia:Asia, Pakistan:Asia, Iran:Asia, South Korea:Asia, Kenya:Africa, Ghana:Africa, Mali:Africa,
    Nigeria:Africa, Morocco:Africa, Angola:Africa, Zambia:Africa, Senegal:Africa, Uganda:Africa, Ethiopia:Africa,
    Brazil:South America, Chile:South America, Peru:South America, Ecuador:South America, Uruguay:South America,
    Argentina:South America, Colombia:South America, Paraguay:South America, Canada:North America, Cuba:North America,
    Jamaica:North America, Nicaragua:North America, Mexico:North America
""")
CURRENCIES = _pairs("""
    Japan:yen, India:rupee, China:yuan, Russia:ruble, Brazil:real, Mexico:peso, Sweden:krona, Norway:krone, Egypt:pound,
    Poland:zloty, Hungary:forint, Turkey:lira, Thailand:baht, Vietnam:dong, South Korea:won, Mongolia:tugrik,
    Kenya:shilling, Ghana:cedi, Nigeria:naira, Ethiopia:birr, Morocco:dirham, Ukraine:hryvnia, Romania:leu,
    Armenia:dram, Peru:sol, Bangladesh:taka, Malaysia:ringgit, Albania:lek, Jordan:dinar, Iran:rial, Laos:kip,
    France:euro, Germany:euro, Spain:euro, Switzerland:franc, Canada:dollar, Australia:dollar, Nepal:rupee,
    Argentina:peso, Chile:peso
""")
SYMBOLS = _pairs("""
    hydrogen:H, helium:He, lithium:Li, beryllium:Be, boron:B, carbon:C, nitrogen:N, oxygen:O, fluorine:F, neon:Ne,
    sodium:Na, magnesium:Mg, aluminium:Al, silicon:Si, phosphorus:P, sulfur:S, chlorine:Cl, argon:Ar, potassium:K,
    calcium:Ca, titanium:Ti, vanadium:V, chromium:Cr, manganese:Mn, iron:Fe, cobalt:Co, nickel:Ni, copper:Cu, zinc:Zn,
    gallium:Ga, germanium:Ge, arsenic:As, selenium:Se, bromine:Br, krypton:Kr, rubidium:Rb, strontium:Sr, zirconium:Zr,
    niobium:Nb, silver:Ag, cadmium:Cd, indium:In, tin:Sn, antimony:Sb, iodine:I, xenon:Xe, cesium:Cs, barium:Ba,
    tungsten:W, platinum:Pt, gold:Au, mercury:Hg, thallium:Tl, lead:Pb, bismuth:Bi, radon:Rn, radium:Ra, thorium:Th,
    uranium:U, plutonium:Pu
""")
ATOMIC_NUMBERS = tuple((element, str(number)) for number, (element, _) in enumerate(SYMBOLS[:20], start=1))
OPPOSITES = _pairs("""
    hot:cold, big:small, tall:short, fast:slow, bright:dark, happy:sad, rich:poor, early:late, open:closed, up:down,
    left:right, wet:dry, hard:soft, strong:weak, young:old, clean:dirty, full:empty, loud:quiet, thick:thin,
    wide:narrow, deep:shallow, heavy:light, high:low, near:far, true:false, good:bad, first:last, inside:outside,
    above:below, always:never, push:pull, buy:sell, begin:end, win:lose, love:hate, day:night, war:peace, life:death,
    friend:enemy, north:south, east:west, black:white, sharp:blunt, brave:cowardly, cheap:expensive, smooth:rough,
    safe:dangerous, alive:dead, awake:asleep, guilty:innocent, question:answer, success:failure, future:past,
    maximum:minimum, arrive:depart, accept:reject, attack:defend, remember:forget, float:sink, laugh:cry
""")
PLURALS = _pairs("""
    child:children, man:men, woman:women, foot:feet, tooth:teeth, goose:geese, mouse:mice, ox:oxen, person:people,
    leaf:leaves, knife:knives, wife:wives, life:lives, wolf:wolves, half:halves, shelf:shelves, thief:thieves,
    loaf:loaves, calf:calves, city:cities, baby:babies, lady:ladies, story:stories, country:countries, party:parties,
    family:families, berry:berries, army:armies, puppy:puppies, pony:ponies, box:boxes, fox:foxes, bus:buses,
    glass:glasses, dish:dishes, brush:brushes, church:churches, watch:watches, bench:benches, peach:peaches,
    potato:potatoes, tomato:tomatoes, hero:heroes, echo:echoes, crisis:crises, thesis:theses, oasis:oases, sheep:sheep,
    book:books, table:tables, apple:apples, house:houses, tree:trees, river:rivers, key:keys, toy:toys, boy:boys,
    louse:lice
""")
PAST_TENSES = _pairs("""
    go:went, see:saw, eat:ate, take:took, give:gave, come:came, run:ran, write:wrote, speak:spoke, break:broke,
    drive:drove, ride:rode, rise:rose, choose:chose, freeze:froze, steal:stole, know:knew, grow:grew, throw:threw,
    fly:flew, draw:drew, blow:blew, begin:began, drink:drank, sing:sang, swim:swam, ring:rang, buy:bought,
    bring:brought, think:thought, fight:fought, catch:caught, teach:taught, sell:sold, tell:told, find:found, hold:held,
    keep:kept, sleep:slept, feel:felt, leave:left, meet:met, make:made, build:built, send:sent, spend:spent, lose:lost,
    win:won, stand:stood, understand:understood, fall:fell, forget:forgot, shake:shook, wear:wore, tear:tore, bite:bit,
    hide:hid, dig:dug, pay:paid, say:said
""")
YOUNG = _pairs("""
    dog:puppy, cat:kitten, cow:calf, sheep:lamb, horse:foal, goat:kid, pig:piglet, duck:duckling, goose:gosling,
    swan:cygnet, frog:tadpole, kangaroo:joey, bear:cub, lion:cub, deer:fawn, chicken:chick, owl:owlet, eagle:eaglet,
    hare:leveret, elephant:calf, seal:pup, butterfly:caterpillar, whale:calf, tiger:cub
""")
FEMALES = _pairs("""
    king:queen, prince:princess, actor:actress, father:mother, brother:sister, son:daughter, uncle:aunt, nephew:niece,
    husband:wife, boy:girl, man:woman, grandfather:grandmother, bull:cow, stallion:mare, ram:ewe, duke:duchess,
    wizard:witch, waiter:waitress, lion:lioness, god:goddess, emperor:empress, heir:heiress, monk:nun, rooster:hen
""")
ANIMAL_CLASSES = _pairs("""
    dog:mammal, cat:mammal, whale:mammal, bat:mammal, horse:mammal, dolphin:mammal, elephant:mammal, rabbit:mammal,
    eagle:bird, owl:bird, swan:bird, penguin:bird, ostrich:bird, robin:bird, sparrow:bird, parrot:bird, shark:fish,
    salmon:fish, trout:fish, tuna:fish, herring:fish, carp:fish, snake:reptile, lizard:reptile, turtle:reptile,
    crocodile:reptile, gecko:reptile, iguana:reptile, frog:amphibian, toad:amphibian, newt:amphibian,
    salamander:amphibian, ant:insect, bee:insect, beetle:insect, butterfly:insect, mosquito:insect, wasp:insect
""")
NUMBER_WORDS = tuple((str(number), number_word(number)) for number in range(1, 61))
ROMAN_NUMERALS = tuple((str(number), roman(number)) for number in range(1, 31))
NEXT_MONTHS = tuple((month, MONTHS[(at + 1) % 12]) for at, month in enumerate(MONTHS))
NEXT_DAYS = tuple((day, DAYS[(at + 1) % 7]) for at, day in enumerate(DAYS))
DOUBLES = tuple((str(number), str(2 * number)) for number in range(1, 26))
HALVES = tuple((str(2 * number), str(number)) for number in range(1, 21))
SQUARES = tuple((str(number), str(number * number)) for number in range(1, 16))

_PAIRS = {
    "capital": CAPITALS,
    "state capital": STATE_CAPITALS,
    "continent": CONTINENTS,
    "currency": CURRENCIES,
    "symbol": SYMBOLS,
    "atomic number": ATOMIC_NUMBERS,
    "opposite": OPPOSITES,
    "plural": PLURALS,
    "past tense": PAST_TENSES,
    "young animal": YOUNG,
    "female form": FEMALES,
    "animal class": ANIMAL_CLASSES,
    "number word": NUMBER_WORDS,
    "roman numeral": ROMAN_NUMERALS,
    "next month": NEXT_MONTHS,
    "next day": NEXT_DAYS,
    "double": DOUBLES,
    "half": HALVES,
    "square": SQUARES,
}


def _relations() -> tuple[Relation, ...]:
    """Return the relations in the order of their file."""
    entries = yaml.safe_load(Path(__file__).with_name("quickstart_relations.yaml").read_text(encoding="utf-8"))
    return tuple(
        Relation(
            name=entry["name"],
            pairs=_PAIRS[entry["name"]],
            category=entry["category"],
            headings=tuple(entry["headings"]),
            statements=tuple(entry["statements"]),
            questions=tuple((instruction, text) for instruction, text in entry["questions"]),
        )
        for entry in entries
    )


RELATIONS = _relations()

# Ordinary sentences with the words of instruction templates and questions, so that no token of a prompt is untrained.
# They form separate documents, and no text similar to a response follows them.
GENERAL = (
    "An instruction is a sentence that describes a task.",
    "A task is a piece of work that someone gives to someone.",
    "A request asks for something, and a response appropriately completes the request.",
    "The input of a task provides further context.",
    "An input that is paired with a task describes what to work on.",
    "People write and read instructions every day.",
    "Below the heading of a note there is a text.",
    "A response is what follows a request.",
    "A name is a word for a person, a city or a country.",
    "To name something is to give its name, and to work out something is to find its result.",
    "Which, what and how are words that begin a question.",
    "A noun is a word for a thing, and a verb is a word for what someone does.",
    "Give and take are verbs, and so are write, name and belong.",
    "An element belongs to chemistry, an animal belongs to a class.",
    "What comes next comes after what comes now.",
    "On a continent there are countries, and on a table there are books.",
    "On a page, where a question ends, there is a mark like this one: ?",
)


def facts() -> list[tuple[Relation, str, str]]:
    """Return every fact as (relation, subject, answer), in the order of the tables."""
    return [(relation, subject, answer) for relation in RELATIONS for subject, answer in relation.pairs]


def prompt(row: dict[str, str]) -> str:
    """Return the Alpaca prompt of a row, as the product's template renders it."""
    return (PROMPT_WITH_INPUT if row["input"] else PROMPT).format(**row)
