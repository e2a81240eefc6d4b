"""Batches: many jobs, each in a sandbox of its own, and what became of each.

What is decided, without I/O:
    jobs, jobfile, schema   what a job is, and what is wrong with a file of them
    entries, plan, resume   what the journal says, what comes next for a job, what is left of earlier runs
    fate, placing, summary  what an error means for a job, which server has room, both rates

What is done:
    directory, lines        the files that survive
    job, collecting         one job carried out, what it leaves behind fetched
    servers, jobqueue       links and room, who takes what
    runner                  the workers, and what Ctrl-C does
    events, results         what is told meanwhile, and in the end
"""
