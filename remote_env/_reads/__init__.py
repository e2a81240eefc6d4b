"""Parts of `remote_env.idempotency`: words and shell grammar, rules for one program, the table of programs."""
