"""How servers hand out the memory of the cache, simulated: what of it holds tokens, and what is lost to which waste.

requests.py     what comes: lengths (uniform, log-normal, ShareGPT-like, NxT, a CSV), arrivals, common prefixes
allocator.py    what a policy is
maximum.py, pow2.py, oracle.py   one stretch a request, reserved when it comes
contiguous.py   what these three share;  buddy.py, first_fit.py   where such a stretch lies
paged.py        blocks as tokens come, and prefixes shared
server.py       requests over time: admission, growth, preemption; the parts of memory
words.py        key=value -> cases
show.py         the command's tables
published.py    published figures of configs/allocation, and a computed verdict

Time is counted in decode steps: in each, every running request adds one token.
"""
