"""What happens, live: Socket.IO and server-sent events of the cluster, of chats and of generations."""
