"""Convert rows of token ids: ``input_ids`` with labels as Hugging Face writes them, or with a mask."""

from itertools import pairwise

from sft_cli.data.formats import document_starts
from sft_cli.data.formats.document_starts import integer_column, invalid_column
from sft_cli.data.formats.fields import Fields, FormatOptions
from sft_cli.data.row_errors import RowError
from sft_cli.types import Conversation, TokenIds

IGNORE_LABEL = -100
"""The label of a token without loss."""

MASKS = ("loss_mask", "assistant_masks", "assistant_mask", "completion_mask")
"""Columns with 1 for a trained token and 0 for any other, as TRL, transformers and Megatron name them."""


def from_token_ids(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the documents of ``{input_ids, labels? | loss_mask?, attention_mask?, position_ids? | seq_lengths?}``.

    Tokens outside the attention mask are padding, and removed. Documents packed into one row are separated; those
    without loss, such as padding that counts as a document, are removed. The weight of token t belongs to its
    prediction from the tokens before it, as in unshifted labels. Nothing predicts the first token of a document, so its
    weight is always 0.
    """
    ids = integer_column(fields, "input_ids")
    if min(ids) < 0:
        raise invalid_column(fields, "input_ids", f"holds {min(ids)}; token ids are at least 0", "encode the row again")
    trained = _trained(fields, options, ids)
    kept = _unpadded(fields, ids, trained)
    documents = []
    for start, end in pairwise([*document_starts.find_document_starts(fields, kept, len(ids), trained), kept.stop]):
        weights = (0.0, *map(float, trained[start + 1 : end]))
        if any(weights):
            documents.append(TokenIds(tuple(ids[start:end]), weights))
    if not documents:
        raise RowError(
            where=fields.row.where,
            reason="no trained token",
            problem="no token of the row carries loss; there is nothing to train on",
            fix="remove the row",
        )
    where, source = fields.row.where, fields.row.source
    places = [f"{where}#{number}" for number in range(1, len(documents) + 1)] if len(documents) > 1 else [where]
    return tuple(
        Conversation((), place, source, tokens=tokens) for place, tokens in zip(places, documents, strict=True)
    )


def _trained(fields: Fields, options: FormatOptions, ids: list[int]) -> list[bool]:
    """Return whether each token is trained; all tokens of a replayed document without labels are."""
    masks: dict[str, list[bool]] = {}
    for name in ("labels", *MASKS):
        if fields.values.get(name) is not None:
            values = integer_column(fields, name, len(ids))
            masks[name] = _by_labels(fields, ids, values) if name == "labels" else _by_mask(fields, name, values)
    if not masks:
        if options.replay:
            return [True] * len(ids)
        raise RowError(
            where=fields.row.where,
            reason="token ids without labels",
            problem="the row has input_ids, but neither labels nor a mask of the trained tokens",
            fix="add labels (-100 for tokens without loss) or a loss_mask; "
            f"data.mix.{fields.row.source}.role=replay trains whole documents",
        )
    (first, trained), *others = masks.items()
    for name, other in others:
        if other != trained:
            token = next(t for t in range(len(ids)) if other[t] != trained[t])
            problem = f"contradicts {fields.columns[first]} at token {token}"
            raise invalid_column(fields, name, problem, "remove one of the two columns")
    return trained


def _by_labels(fields: Fields, ids: list[int], labels: list[int]) -> list[bool]:
    """Return whether each label is set; a label that is set must be the token of its position."""
    wrong = [t for t, (label, token) in enumerate(zip(labels, ids, strict=True)) if label not in (IGNORE_LABEL, token)]
    if not wrong:
        return [label != IGNORE_LABEL for label in labels]
    position = wrong[0]
    shifted = all(label in (IGNORE_LABEL, after) for label, after in zip(labels, ids[1:], strict=False))
    hint = ": the labels are shifted by one" if shifted else ""
    problem = f"is {labels[position]} at token {position}, where input_ids is {ids[position]}{hint}"
    raise invalid_column(fields, "labels", problem, "write the id of the same token, or -100 for no loss")


def _by_mask(fields: Fields, name: str, mask: list[int]) -> list[bool]:
    """Return whether the mask is 1 at each token."""
    if not set(mask) <= {0, 1}:
        invalid = next(value for value in mask if value not in (0, 1))
        raise invalid_column(fields, name, f"holds {invalid}", "write 1 for a trained token and 0 for any other")
    return [value == 1 for value in mask]


def _unpadded(fields: Fields, ids: list[int], trained: list[bool]) -> range:
    """Return the range of the tokens that are not padding."""
    if fields.values.get("attention_mask") is None:
        return range(len(ids))
    real = [number > 0 for number in document_starts.token_numbers(fields, "attention_mask", len(ids))]
    if not any(real):
        raise invalid_column(fields, "attention_mask", "is 0 everywhere", "remove the row")
    kept = range(real.index(True), len(real) - real[::-1].index(True))
    if not all(real[kept.start : kept.stop]):
        gap = next(t for t in kept if not real[t])
        problem = f"is 0 at token {gap}, in the middle of the row"
        raise invalid_column(fields, "attention_mask", problem, "only padding at either end can be left out")
    if any(trained[: kept.start]) or any(trained[kept.stop :]):
        raise invalid_column(fields, "attention_mask", "is 0 at a token that carries loss", "set its label to -100")
    return kept
