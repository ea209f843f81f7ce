"""Chat sessions: kept on disk with all their branches, answered by the cluster, shown alike in every open tab."""
