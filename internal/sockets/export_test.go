package sockets

// ListenedIn reads a list of sockets.
var ListenedIn = listenedIn
