package netns

// Rules are what our table in the task's namespace should be: its security groups, with their members' addresses as sets, and
// the denial of the instance metadata. Nothing of either is an empty ruleset. It is made real, and made right again when members, rules or somebody
// else have changed it, by [Tables.Ensure], which is the one call for all of these:
//
//	changed, err := tables.Ensure(namespace, task.Rules(members))
func (t Task) Rules(members Members) Ruleset {
	return Ruleset{}
}
