// Package version says which Longshore this is.
package version

// Version is set when a binary is linked; "dev" in one built without the Makefile.
var Version = "dev"
