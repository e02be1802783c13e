"""Write golden vectors, docs/protocol.cddl and the tamper matrix of docs/data.md again.

    python -m tests.golden.regenerate

Look at the difference before it is committed: what changes in a released type is a new protocol
(docs/protocol.md, evolution).
"""

from tests.golden import router_vectors, tamper_matrix, wire_vectors

if __name__ == "__main__":
    router_vectors.write()
    wire_vectors.write()
    tamper_matrix.write()
