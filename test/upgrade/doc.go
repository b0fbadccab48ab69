// Package upgrade holds what one version of Longshore says against what another one understands.
//
//	transcripts   an agent's life beside a control plane, as version N speaks it, every call and frame in order
//	              (testdata/transcripts/N.jsonl). Its agent's side is said again to today's control plane, and its control plane's side to
//	              today's agent. Both must say all that N's other side heard: whatever N relied upon.
//	              The next version is played by changing what is said again: members, messages, headers and values that nobody
//	              knows yet everywhere
//	shapes        every message with all its members (testdata/shapes): today's types know them all
//	replacement   the control plane is replaced under a load of writes, with agents connected
//	programs      (make test-upgrade) the programs of an older commit, PREVIOUS, beside today's, on a host with a Docker engine of its own; and
//	              replaced by them in place
//	backup        what an older version backed up (testdata/backups) is restored; records of a newer one are refused
//
// UPDATE=1 writes the files of this version. A file of a version that is out is never written again.
package upgrade
