"""``stoker completion``: the script that makes a shell complete commands, options, and names of apps and functions."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")

# What the scripts ask the command is click's own protocol (_STOKER_COMPLETE, COMP_WORDS, COMP_CWORD).
_BASH = """\
_stoker_completion() {
    local IFS=$'\\n' line
    COMPREPLY=()
    for line in $(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _STOKER_COMPLETE=bash_complete \\
        "${BASH_ALIASES[$1]:-$1}"); do
        case "${line%%,*}" in
            dir) compopt -o dirnames 2>/dev/null ;;
            file) compopt -o default 2>/dev/null ;;
            plain) COMPREPLY+=("${line#*,}") ;;
        esac
    done
}
complete -o nosort -F _stoker_completion stoker
"""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete names.

    It completes commands and options, and asks the daemon for the names of apps, functions and triggers. Zsh needs
    `autoload -U compinit && compinit` before, unless ~/.zshrc has it already.

    \b
    Examples:
      source <(stoker completion bash)                  # bash, this session
      stoker completion bash >> ~/.bashrc               # bash, from now on
      source <(stoker completion zsh)                   # zsh
      stoker completion fish > ~/.config/fish/completions/stoker.fish
    """
    if shell == "bash":
        # click's own looks for the version of the bash on the path, which costs a process and need not be this one.
        click.echo(_BASH, nl=False)
        return
    from click.shell_completion import get_completion_class

    from cli.main import root

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(root, {}, "stoker", "_STOKER_COMPLETE").source())
