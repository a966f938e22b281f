"""Convert trees of messages (OpenAssistant): every path from the first question to an answer is a conversation.

``best`` follows the top-ranked reply at every turn, ``ranked(k)`` the k best, ``all`` every one; replies without a rank
come last, in the order of the file. A reply that leads to no answer is not followed. An answer on several paths carries
loss only on the first of them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sft_cli.config.schema.data import RANKED, TreeConfig
from sft_cli.data.formats.fields import Fields, FormatOptions, checked_text, wrong_type
from sft_cli.data.formats.message_keys import read_message_keys
from sft_cli.data.formats.roles import TOOL_CALL, parse_role
from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.row_errors import RowError, RowExcluded, short_repr
from sft_cli.types import Conversation, Message, Row

SPAM_THRESHOLD = 0.5
"""The mean of the reviewers' yes (1) and no (0) at which a message counts as spam."""

REJECTED_STATES = ("aborted_low_grade", "halted_by_moderator")
"""States of trees that OpenAssistant rejected."""

READ = (
    "role", "text", "replies", "rank", "lang", "review_result", "deleted", "labels", "message_id", "parent_id",
    "message_tree_id", "tree_state",
)  # fmt: skip
"""Keys of a tree's message that are read."""


@dataclass(slots=True)
class TreeNode:
    """One message of a tree.

    Attributes:
        message: The message.
        rank: Its rank among its siblings by the reviewers' votes, 0 for the best; infinite without a rank.
        replies: The nodes below it, in the order of the file.
    """

    message: Message
    rank: float
    replies: list["TreeNode"] = field(default_factory=list)


def from_nested_tree(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the conversations of ``{prompt: {text, role, replies}, message_tree_id?, tree_state?}``, a nested tree."""
    root = fields.values["prompt"]
    if not isinstance(root, dict):
        raise wrong_type(
            root, fields.columns["prompt"], "the first message of a tree, with its replies", fields.row.where
        )
    return _from_root(root, fields.columns["prompt"], fields, options)


def from_tree_root(fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the conversations of ``{message_id, text, role, replies}``: the row is the tree's first message."""
    return _from_root(fields.values, "", fields, options)


def _from_root(root: Mapping[str, Any], name: str, fields: Fields, options: FormatOptions) -> tuple[Conversation, ...]:
    """Return the conversations of the tree below a first message.

    Args:
        root: The first message.
        name: Its path in the row, for errors; empty if it is the row itself.
        fields: The row.
        options: How the row is read.
    """
    values = fields.values
    context = RowContext.from_fields(fields, options)
    first = (
        None if is_rejected(values.get("tree_state"), options.tree) else _parse_tree(root, name, options.tree, context)
    )
    key = values.get("message_tree_id") or root.get("message_id")
    return tree_conversations(first, fields.row, key, root.get("lang"), options.tree, context.not_read)


def _parse_tree(root: Mapping[str, Any], name: str, config: TreeConfig, context: RowContext) -> TreeNode | None:
    """Return the root of a nested tree, without the nodes that the config leaves out; None if it leaves out the root.

    The loop replaces recursion, so that trees can have any depth.
    """
    roots: list[TreeNode] = []
    stack: list[tuple[Any, str, list[TreeNode]]] = [(root, name, roots)]
    while stack:
        values, field, siblings = stack.pop()
        if not isinstance(values, Mapping):
            raise wrong_type(values, field, "a message with text and role", context.where)
        node = parse_node(values, field, config, context)
        if node is None:
            continue
        siblings.append(node)
        replies = values.get("replies") or []
        inner = f"{field}.replies" if field else "replies"
        if not isinstance(replies, list):
            raise wrong_type(replies, inner, "a list of messages", context.where)
        numbered = list(enumerate(replies))
        stack += [(reply, f"{inner}[{index}]", node.replies) for index, reply in reversed(numbered)]
    return roots[0] if roots else None


def parse_node(values: Mapping[str, Any], name: str, config: TreeConfig, context: RowContext) -> TreeNode | None:
    """Return one message without its replies; None if the config leaves it and its replies out.

    Args:
        values: The message.
        name: Its path in the row, for errors; empty if it is the row itself.
        config: The source's ``tree``.
        context: The row.
    """
    where, prefix = context.where, f"{name}." if name else ""
    flags = {key: values.get(key) for key in ("review_result", "deleted")}
    for key, flag in flags.items():
        if flag is not None and not isinstance(flag, bool):
            raise wrong_type(flag, f"{prefix}{key}", "true, false or null", where)
    spam = config.reviewed and _spam(values.get("labels"), f"{prefix}labels", where)
    if config.reviewed and (flags["review_result"] is False or flags["deleted"] or spam):
        return None
    language = values.get("lang")
    if config.languages:
        if not isinstance(language, str):
            raise wrong_type(language, f"{prefix}lang", "a language such as en (tree.languages is set)", where)
        if language not in config.languages:
            return None
    role = parse_role(values, "role", name or "row", context)
    if role == TOOL_CALL:
        raise wrong_type(values["role"], f"{prefix}role", "a role of a message, not of a tool call", where)
    content = checked_text(values.get("text"), f"{prefix}text", where)
    if role == "user" and not content.strip():
        raise RowError(
            where=where,
            reason="empty question",
            problem=f"field '{prefix}text' ({role}) is {short_repr(content)}; expected non-empty text",
            fix="fill it in or remove the message",
        )
    message = Message(role, content)
    if name:  # a message that is the row itself has columns, not keys
        names = f"{name.partition('.')[0].partition('[')[0]}{'.replies[]' if '.replies' in name else ''}"
        names = "replies[]" if name.startswith("replies[") else names
        keys = read_message_keys(values, READ, role, name, names, context)
        message = Message(role, content, 1.0 if keys.weight is None else keys.weight, keys.extra)
    return TreeNode(message, _rank(values.get("rank"), f"{prefix}rank", where))


def tree_conversations(
    root: TreeNode | None, row: Row, key: Any, language: Any, config: TreeConfig, not_read: Iterable[str] = ()
) -> tuple[Conversation, ...]:
    """Return the conversations of a tree.

    Args:
        root: The first message, or None if the config leaves it out.
        row: The row of the tree, or of its first message.
        key: The tree's id; branches of one tree stay on one side of the validation split.
        language: Language of the first message, for the tag ``language``.
        config: The source's ``tree``, which selects the paths.
        not_read: Keys of its messages that nothing reads.
    """
    unread = tuple(sorted(not_read))
    group = key if isinstance(key, str) and key else row.where
    tags = {"language": checked_text(language, "lang", row.where)} if isinstance(language, str) and language else {}
    checked_text(group, "message_tree_id", row.where)
    limit = replies_per_turn(config.paths)
    trained: set[int] = set()
    conversations = []
    for path in _paths(root, limit) if root is not None else ():
        messages = []
        for node in path:
            repeated = node.message.role == "assistant" and id(node) in trained
            messages.append(replace(node.message, weight=0.0) if repeated else node.message)
            trained.add(id(node))
        where = row.where if config.paths == "best" else f"{row.where}#{len(conversations) + 1}"
        conversations.append(Conversation(tuple(messages), where, row.source, tags=tags, group=group, not_read=unread))
    if not conversations:
        tree = f"data.mix.{row.source}.tree"
        raise RowExcluded(
            where=row.where,
            reason="tree without a kept answer",
            problem="the source's tree.languages and tree.reviewed leave no answer of the tree",
            fix=f"set {tree}.languages=[] or {tree}.reviewed=false to keep more",
        )
    return tuple(conversations)


def replies_per_turn(paths: str) -> int | None:
    """Return the number of replies that are followed at every turn; None for all."""
    if paths in ("best", "all"):
        return 1 if paths == "best" else None
    ranked = RANKED.fullmatch(paths)
    assert ranked is not None, f"tree.paths {paths!r} passed the check of the config"
    return int(ranked.group(1))


def is_rejected(state: Any, config: TreeConfig) -> bool:
    """Return whether a tree as a whole failed its review."""
    return config.reviewed and isinstance(state, str) and state in REJECTED_STATES


def _paths(root: TreeNode, limit: int | None) -> Iterator[list[TreeNode]]:
    """Yield every path from the root to a last answer, best replies first."""
    chosen = _followed_replies(root, limit)
    path: list[TreeNode] = []
    stack = [(root, 0)] if root.message.role == "assistant" or chosen[id(root)] else []
    while stack:
        node, depth = stack.pop()
        del path[depth:]
        path.append(node)
        replies = chosen[id(node)]
        if replies:
            stack += [(reply, depth + 1) for reply in reversed(replies)]
        else:
            yield list(path)


def _followed_replies(root: TreeNode, limit: int | None) -> Mapping[int, Sequence[TreeNode]]:
    """Return the replies that are followed, best first, by the id of their parent node."""
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack += node.replies
    chosen: dict[int, Sequence[TreeNode]] = {}
    for node in reversed(order):
        leading = [reply for reply in node.replies if reply.message.role == "assistant" or chosen[id(reply)]]
        chosen[id(node)] = sorted(leading, key=lambda reply: reply.rank)[:limit]
    return chosen


def _rank(value: Any, field: str, where: str) -> float:
    """Return a rank as a number; a missing rank (null, or NaN as pandas writes it) sorts last."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(value, field, "a number or null", where)
    return math.inf if math.isnan(value) else value


def _spam(labels: Any, field: str, where: str) -> bool:
    """Return whether reviewers marked a message as spam.

    Labels are ``{spam: {value}}`` or, in Parquet, ``{name: […], value: […]}``.
    """
    if labels is None:
        return False
    if not isinstance(labels, dict):
        raise wrong_type(labels, field, "OpenAssistant's labels", where)
    names, values = labels.get("name"), labels.get("value")
    if isinstance(names, list) and isinstance(values, list):
        value = dict(zip(map(str, names), values, strict=False)).get("spam")
    else:
        spam = labels.get("spam")
        value = spam.get("value") if isinstance(spam, dict) else spam
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise wrong_type(value, f"{field} (spam)", "a number from 0 to 1", where)
    return value is not None and value >= SPAM_THRESHOLD
