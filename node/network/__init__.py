"""The network of a node: libp2p behind a seam, and everything that is built on the seam."""

from dipaco.node.network.left_out import leave_out

leave_out()
