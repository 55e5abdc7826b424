"""Extract features from clips into the feature store, streamed by Ray Data through pools of actors.

pipeline.py         the pipeline itself
run.py              one run: plan the work, stream it through the pipeline until every clip has an outcome
pending.py          the work that is left, computed from the store
staleness.py        whether stored features were made from the present inputs of their clips
pools.py            the number and size of the actors of each stage
measure.py          time per stage, measured on a few clips before a long run
stage.py            base class of all stages, and the one place where any exception of a stage is caught
decode_stage.py, extract_stage.py, transcribe_stage.py   the stages
stage_chain.py      the stages that one process runs
watchdog.py         ends a process whose batch takes too long or too much memory
broken_stage.py     tells a stage that cannot work from clips that cannot be processed
isolation.py        a child process for clips that may end their process
unseen.py           counts clips whose outcomes did not arrive because their pass had ended
maintenance.py      merges small parts during and after a run
run_record.py, summary.py   counts and timings of a run by stage, and their file
"""
