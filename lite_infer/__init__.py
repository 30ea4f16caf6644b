"""The command line of lite-infer as a process of its own: ``python -m lite_infer`` is what ``lite-infer`` does.

Applications import `runtime`; there is nothing for them here.
"""
