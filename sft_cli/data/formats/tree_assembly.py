"""Assemble OpenAssistant messages, one in each row and in any order, into trees, through a database on disk."""

import pickle
import sqlite3
from collections.abc import Callable, Iterable, Iterator

from sft_cli.data.formats.fields import Fields, FormatOptions, checked_text, too_deep
from sft_cli.data.formats.row_context import RowContext
from sft_cli.data.formats.trees import TreeNode, is_rejected, parse_node, tree_conversations
from sft_cli.data.row_errors import RowError
from sft_cli.data.sources.source_rows import BadRow
from sft_cli.errors import SftError
from sft_cli.types import Conversation, Row

RowFields = tuple[Row, Fields]
"""A row, and its columns under the format's names."""

SELECT_REPLIES = "SELECT number, content FROM messages WHERE parent IS ? ORDER BY number"


def assemble_trees(
    rows: Iterable[Row | BadRow], take: Callable[[Row], Fields], options: FormatOptions
) -> Iterator[tuple[Conversation, Row] | BadRow]:
    """Yield every conversation with the row of its first message, and every row that belongs to no conversation.

    Rows are kept in a temporary database, so memory does not grow with their number. Errors of single rows come first,
    then the trees in the order of their first messages, then messages that belong to no tree.
    """
    try:
        store = sqlite3.connect("")  # a temporary file that SQLite deletes when it is closed
        try:
            store.execute(
                "CREATE TABLE messages (number INTEGER PRIMARY KEY, id TEXT UNIQUE, parent TEXT, content BLOB)"
            )
            count = 0
            for row in rows:
                bad_row = row if isinstance(row, BadRow) else _store_row(store, row, take)
                count += bad_row is None
                if bad_row is not None:
                    yield bad_row
            store.execute("CREATE INDEX parents ON messages (parent)")
            reached = bytearray(count + 1)
            for root in _select(store, None):
                yield from _tree(store, root, options, reached)
            yield from _orphans(store, reached)
        finally:
            store.close()
    except sqlite3.Error as error:
        raise SftError(
            where="the temporary database of messages",
            problem=str(error),
            fix="free some disk space, or point SQLITE_TMPDIR at a directory that has more",
        ) from error


def _store_row(store: sqlite3.Connection, row: Row, take: Callable[[Row], Fields]) -> BadRow | None:
    """Store a row with the ids of its message and parent; return the row's error, or None."""
    try:
        fields = take(row)
        name = fields.text("message_id")
        parent = fields.optional("parent_id") or None
        content = pickle.dumps((row, fields))
    except RowError as error:
        return BadRow(row.where, row.source, error)
    except RecursionError:
        return BadRow(row.where, row.source, too_deep(row))
    try:
        store.execute("INSERT INTO messages (id, parent, content) VALUES (?, ?, ?)", (name, parent, content))
    except sqlite3.IntegrityError:
        error = RowError(
            where=row.where,
            reason="message_id used twice",
            problem=f"field {fields.columns['message_id']!r} is {name!r}, as in an earlier row",
            fix="remove one of the two rows",
        )
        return BadRow(row.where, row.source, error)
    return None


def _select(store: sqlite3.Connection, parent: str | None) -> Iterator[tuple[int, RowFields]]:
    """Yield the stored rows below a parent, in their order."""
    for number, content in store.execute(SELECT_REPLIES, (parent,)):
        yield number, pickle.loads(content)


def _tree(
    store: sqlite3.Connection, root: tuple[int, RowFields], options: FormatOptions, reached: bytearray
) -> Iterator[tuple[Conversation, Row] | BadRow]:
    """Yield the conversations of one tree, or the first error among its messages."""
    row, fields = root[1]
    left_out = is_rejected(fields.values.get("tree_state"), options.tree)
    roots: list[TreeNode] = []
    stack: list[tuple[tuple[int, RowFields], list[TreeNode] | None]] = [(root, None if left_out else roots)]
    problem: RowError | None = None
    while stack:
        (number, (_, message)), siblings = stack.pop()
        reached[number] = 1
        replies_of_node = None
        if siblings is not None:
            try:
                node = parse_node(message.values, "", options.tree, RowContext.from_fields(message, options))
            except RowError as error:
                node, problem = None, problem or error
            if node is not None:
                siblings.append(node)
                replies_of_node = node.replies
        replies = list(_select(store, message.text("message_id")))
        stack += [(reply, replies_of_node) for reply in reversed(replies)]
    try:
        if problem is not None:
            raise problem
        values = fields.values
        key = values.get("message_tree_id") or values["message_id"]
        first = roots[0] if roots else None
        for conversation in tree_conversations(first, row, key, values.get("lang"), options.tree):
            yield conversation, row
    except RowError as error:
        yield BadRow(error.where, row.source, error)


def _orphans(store: sqlite3.Connection, reached: bytearray) -> Iterator[BadRow]:
    """Yield an error for every message that no first message leads to."""
    for number, content in store.execute("SELECT number, content FROM messages ORDER BY number"):
        if not reached[number]:
            row, fields = pickle.loads(content)
            parent = checked_text(fields.values["parent_id"], fields.columns["parent_id"], row.where)
            error = RowError(
                where=row.where,
                reason="message without its tree",
                problem=f"field {fields.columns['parent_id']!r} is {parent!r}, which no first message leads to",
                fix="add the missing messages of the tree, or remove the row",
            )
            yield BadRow(row.where, row.source, error)
