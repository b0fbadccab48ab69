// Package failpoint names the instants at which a crash is worth testing.
//
// A failpoint is a call of [Hit] before or after a durable write or a side effect. In an ordinary binary it is an empty
// function that the compiler removes. In one built with the tag "failpoint" the environment variable
// LONGSHORE_FAILPOINT, of the form "name" or "name:nth", makes the nth hit of that name kill the own process with SIGKILL,
// as a power cut would: nothing deferred runs, nothing is flushed. LONGSHORE_FAILPOINT_LOG names a file to which the name
// of each hit is appended, so that a test can learn which failpoints a walk passes.
package failpoint
