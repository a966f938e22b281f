"""The lists of words that IFBench counts."""


def _words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


CONJUNCTIONS = _words("and but for nor or so yet")
PERSON_NAMES = _words(
    """
    Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin Harper
    Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria Elijah Layla
    Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella Jonathan
    """
)
"""The names that the prompts list."""
_PERSONAL = _words(
    """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
    it its itself they them their theirs themselves
    """
)
PRONOUNS = (
    _PERSONAL
    | _words("mine us this that these those who whom whose which what whoever whomever whatever whichever")
    | _words("anybody anyone anything everybody everyone everything nobody nothing somebody someone something")
    | _words("each either neither both all some any none")
)
STOP_WORDS = (
    _PERSONAL
    | _words("what which who whom this that these those")
    | _words("am is are was were be been being have has had having do does did doing will can should")
    | _words("a an the and but if or because as until while nor")
    | _words("of at by for with about against between into through during before after above below to from")
    | _words("up down in out on off over under again further then once here there when where why how")
    | _words("all any both each few more most other some such no not only own same so than too very just now")
    | _words("s t d ll m o re ve y don ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan")
    | _words("shouldn wasn weren won wouldn")
)
"""The English stop words of NLTK without an apostrophe: function words and the parts of contractions."""
