// Package netns is the host's networking, as far as Longshore and not the container engine makes it:
//
//	[HostNetwork]   what the host's own network has for containers, of pieces: the address at which they ask the agent
//	                ([LinkLocal]), the denial of the instance metadata ([DenyMetadata]), and a bridge with addresses
//	                and published ports for engines that leave networking to us ([Bridge])
//	[Host]          the networks of awsvpc tasks, each a namespace of its own with its own interface
//	[Task.Rules]    the security groups that hold there
//
// # Model
//
// Each piece is a pure function from what is asked for to the wanted kernel state, and a step that compares what is with what
// is wanted and does only what differs. So a step may be repeated at any time: at a start, after somebody flushed the rules, every so
// often. Events of the kernel are hints to look at once; losing them costs time only.
//
// All rules are in one nftables table of our own in each namespace, "longshore" of the family inet: a [Ruleset], which [Tables] makes
// real in one transaction, so that there is never a moment with half of it. What changes often (members of groups, published ports,
// interfaces) is in sets and maps, of which only the elements that differ are touched. Nothing in any other table is changed, and
// what is ours can be told from what is not by that name, and for addresses by their label. Removal takes away all that is ours
// and nothing else; it can be repeated, and needs nobody to remember what was made.
//
// It takes Linux 5.10: rejecting before routing, and sets of boxes.
package netns
