# bash reads this (BASH_ENV) before it runs a command, and notes the command's start and end in the sandbox: time, then the command or
# its exit code. Nothing of remote-env takes part in the counting. Scripts that the command starts are not counted.
unset BASH_ENV
printf '%s\tstart\t%s\n' "$EPOCHREALTIME" "${BASH_EXECUTION_STRING//$'\n'/ ⏎ }" >>/ran
trap 'printf "%s\tend\t%s\n" "$EPOCHREALTIME" "$?" >>/ran' EXIT
