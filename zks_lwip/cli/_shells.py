"""Completion by shells, where click's own falls short.

Values behind a ``=`` are completed, too; words that bash has split at ``:`` and ``=`` are put
together; help that has commas comes whole to fish.
"""

from __future__ import annotations

import re
from functools import reduce

from click.shell_completion import (
    BashComplete,
    FishComplete,
    ZshComplete,
    add_completion_class,
)

__all__ = ["register_shells"]

_ZSH = (
    ("    for type key", "    [[ $PREFIX == --*=* ]] && compset -P 1 '*='\n\n    for type key"),
    ("compadd -U ", 'compadd -U -i "$IPREFIX" '),
)
"""Has zsh take what stands behind the first ``=`` for the word, and keep what is before it."""

_FISH = """\
function %(complete_func)s
    set -l word (commandline -ct)
    set -l option (string match -r -- '^--[^=]+=' $word)
    set -l value (string replace -r -- '^--[^=]+=' '' $word)

    for line in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp | string collect) \
COMP_CWORD="$word" %(prog_name)s)
        set -l parts (string split -m 1 , -- $line)

        switch $parts[1]
            case dir
                printf '%%s\\n' "$option"(__fish_complete_directories "$value")
            case file
                printf '%%s\\n' "$option"(__fish_complete_path "$value")
            case plain
                echo "$option$parts[2]"
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""
"""click's for fish, but for what has a ``=`` in front, and with help that has commas."""


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one at it, as they were typed.

        Inside of a word bash makes words of ``:`` and ``=``.
        """
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        glue = False
        for word in [*args, incomplete]:
            is_break = re.fullmatch("[:=]+", word) is not None
            is_behind = is_break and (word == "=" or not words[-1:] or words[-1][:1] != "-")
            if words and (glue or is_behind):
                words[-1] += word
            else:
                words.append(word)
            glue = is_break
        return words[:-1], words[-1]


class _Zsh(ZshComplete):
    source_template = reduce(lambda text, x: text.replace(*x), _ZSH, ZshComplete.source_template)


class _Fish(FishComplete):
    source_template = _FISH


def register_shells() -> None:
    """Have click use these in place of its own."""
    for shell in (_Bash, _Zsh, _Fish):
        add_completion_class(shell)
