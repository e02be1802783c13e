"""Write golden vectors and trajectories, docs/protocol.cddl, the tamper matrix, the references.

    python -m tests.golden.regenerate

Look at the difference before it is committed: what changes in a released type is a new protocol
(docs/protocol.md, evolution).
"""

from tests.golden import (
    largest_table,
    references,
    router_vectors,
    schemas,
    tamper_matrix,
    trajectories,
    wire_vectors,
)

if __name__ == "__main__":
    router_vectors.write()
    wire_vectors.write()
    largest_table.write()
    tamper_matrix.write()
    trajectories.write()
    schemas.write()
    references.write()
