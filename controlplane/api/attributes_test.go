package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

func TestAttributesArePutListedAndDeleted(t *testing.T) {
	p := newPlane(t)
	id, other := p.register(p.host, 1, 1), p.register(p.host, 1, 1)
	arn := "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/"
	dashed := fmt.Sprintf("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:])
	answer, status := p.call("PutAttributes", `{"cluster":"daemonset","attributes":[{"name":"env","value":"prod","targetType":"container-instance","targetId":"`+dashed+`"},
		{"name":"bare","targetId":"`+arn+id+`"},{"name":"env","value":"test","targetId":"`+other+`"}]}`)
	want := "[map[name:env targetId:" + arn + id + " targetType:container-instance value:prod] map[name:bare targetId:" + arn + id + "] map[name:env targetId:" + arn + other + " value:test]]"
	if status != 200 || fmt.Sprint(answer["attributes"]) != want {
		t.Fatalf("got  %v\nwant %s", answer, want)
	}
	if i := p.instance(id); value(i.Attributes, "env") != "prod" || value(i.Attributes, "bare") != "" || i.Version != 2 {
		t.Errorf("got %+v", i)
	}
	list := func(name, val *string) int {
		t.Helper()
		out, err := p.admin.ListAttributes(p.ctx, &ecs.ListAttributesInput{Cluster: aws.String(testCluster), TargetType: types.TargetTypeContainerInstance, AttributeName: name, AttributeValue: val})
		p.must(err)
		return len(out.Attributes)
	}
	if a, b, c, d := list(aws.String("env"), nil), list(aws.String("env"), aws.String("prod")), list(aws.String("ecs.os-type"), nil), list(nil, nil); a != 2 || b != 1 || c != 2 || d != 17 {
		t.Errorf("listed %d, %d, %d, %d", a, b, c, d)
	}
	n := 0
	for pages := ecs.NewListAttributesPaginator(p.admin, &ecs.ListAttributesInput{Cluster: aws.String(testCluster), TargetType: types.TargetTypeContainerInstance, MaxResults: aws.Int32(3)}); pages.HasMorePages(); {
		page, err := pages.NextPage(p.ctx)
		p.must(err)
		n += len(page.Attributes)
	}
	if n != 17 {
		t.Errorf("pages hold %d", n)
	}
	remove := func(name string, val *string) int {
		t.Helper()
		out, err := p.admin.DeleteAttributes(p.ctx, &ecs.DeleteAttributesInput{Cluster: aws.String(testCluster), Attributes: []types.Attribute{{Name: &name, Value: val, TargetId: &id}}})
		p.must(err)
		return len(out.Attributes)
	}
	if a, b, c, d := remove("env", aws.String("test")), remove("env", aws.String("prod")), remove("env", nil), remove("bare", nil); a != 0 || b != 1 || c != 0 || d != 1 {
		t.Errorf("removed %d, %d, %d, %d", a, b, c, d)
	}
	if i := p.instance(id); value(i.Attributes, "env") != "(none)" || value(i.Attributes, "ecs.os-type") != "linux" {
		t.Errorf("left %+v", i.Attributes)
	}
}

func TestBadAttributesAreRefusedAndChangeNothing(t *testing.T) {
	p := newPlane(t)
	id := p.register(p.host, 1, 1)
	good := `{"name":"good","targetId":"` + id + `"}`
	attribute := func(a string) string { return `{"cluster":"daemonset","attributes":[` + good + `,` + a + `]}` }
	eleven := strings.TrimSuffix(strings.Repeat(good+",", 11), ",")
	for body, want := range map[string]string{
		`{"cluster":"daemonset","attributes":[]}`:                                                           "InvalidParameterException: Attributes cannot be empty.",
		`{"cluster":"daemonset","attributes":[` + eleven + `]}`:                                             "InvalidParameterException: attributes has 11 elements; at most 10",
		`{"cluster":"none","attributes":[` + good + `]}`:                                                    "ClusterNotFoundException: Cluster not found.",
		attribute(`{"name":"a","targetId":"` + strings.Repeat("0", 32) + `"}`):                              "TargetNotFoundException: ",
		attribute(`{"name":"a","targetId":"nobody"}`):                                                       "TargetNotFoundException: ",
		attribute(`{"name":"a"}`):                                                                           "InvalidParameterException: The attribute a has no targetId.",
		attribute(`{"targetId":"` + id + `"}`):                                                              "InvalidParameterException: PutAttributes requires the member attributes[1].name.",
		attribute(`{"name":"a b","targetId":"` + id + `"}`):                                                 "InvalidParameterException: The attribute name",
		attribute(`{"name":"a","value":" x","targetId":"` + id + `"}`):                                      "InvalidParameterException: The value",
		attribute(`{"name":"a","value":"` + strings.Repeat("x", 129) + `","targetId":"` + id + `"}`):        "InvalidParameterException: The value",
		attribute(`{"name":"ecs.os-type","value":"x","targetId":"` + id + `"}`):                             "InvalidParameterException: The attribute ecs.os-type can't be changed",
		attribute(`{"name":"longshore.instance-id","targetId":"` + id + `"}`):                               "InvalidParameterException: The attribute longshore.instance-id can't be changed",
		attribute(`{"name":"com.amazonaws.ecs.x","targetId":"` + id + `"}`):                                 "InvalidParameterException: The attribute com.amazonaws.ecs.x can't be changed",
		attribute(`{"name":"a","targetType":"moon","targetId":"` + id + `"}`):                               "InvalidParameterException: targetType should be one of [container-instance]",
		attribute(`{"name":"a","targetId":"arn:aws:ecs:us-west-2:123456789012:task/daemonset/` + id + `"}`): "InvalidParameterException: Unsupported resource type: task",
	} {
		answer, status := p.call("PutAttributes", body)
		if got := fmt.Sprint(answer["__type"], ": ", answer["message"]); status != 400 || !strings.HasPrefix(got, want) {
			t.Errorf("%s: status %d: %s\nwant %s", body, status, got, want)
		}
	}
	if i := p.instance(id); i.Version != 1 || value(i.Attributes, "good") != "(none)" {
		t.Errorf("got %+v", i)
	}
	for n := range 11 {
		_, err := p.admin.PutAttributes(p.ctx, &ecs.PutAttributesInput{Cluster: aws.String(testCluster), Attributes: []types.Attribute{{Name: aws.String(fmt.Sprint("a", n)), TargetId: &id}}})
		if n < 10 {
			p.must(err)
		} else {
			p.refused(err, "AttributeLimitExceededException", "more than 10 custom attributes")
		}
	}
	_, err := p.admin.PutAttributes(p.ctx, &ecs.PutAttributesInput{Cluster: aws.String(testCluster), Attributes: []types.Attribute{{Name: aws.String("a3"), Value: aws.String("new"), TargetId: &id}}})
	p.must(err)
}

func TestEverythingThatHasTagsIsTagged(t *testing.T) {
	p := newPlane(t)
	id := p.register(p.host, 1024, 1000)
	definition := p.define("f", 1, 6)
	task := *p.run(&ecs.RunTaskInput{TaskDefinition: &definition}).Tasks[0].TaskArn
	const prefix = "arn:aws:ecs:us-west-2:123456789012:"
	for _, arn := range []string{
		prefix + "cluster/daemonset", prefix + "task-definition/f:1", prefix + "container-instance/daemonset/" + id, prefix + "container-instance/" + id, task,
		prefix + "task/" + task[strings.LastIndex(task, "/")+1:],
	} {
		answer, status := p.call("ListTagsForResource", `{"resourceArn":"`+arn+`"}`)
		if list, ok := answer["tags"].([]any); status != 200 || !ok {
			t.Errorf("%s: %v", arn, answer)
		} else if len(list) != 0 && !strings.Contains(fmt.Sprint(list), "old") {
			t.Errorf("%s: %v", arn, list)
		}
		_, err := p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: &arn, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("1")}, {Key: aws.String("old")}}})
		p.must(err)
		_, err = p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: &arn, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("2")}}})
		p.must(err)
		_, err = p.admin.UntagResource(p.ctx, &ecs.UntagResourceInput{ResourceArn: &arn, TagKeys: []string{"a", "absent"}})
		p.must(err)
		out, err := p.admin.ListTagsForResource(p.ctx, &ecs.ListTagsForResourceInput{ResourceArn: &arn})
		p.must(err)
		if len(out.Tags) != 1 || *out.Tags[0].Key != "old" {
			t.Errorf("%s has %+v", arn, out.Tags)
		}
	}
	if out, err := p.host.ListTagsForResource(p.ctx, &ecs.ListTagsForResourceInput{ResourceArn: &task}); err != nil || len(out.Tags) != 1 {
		t.Errorf("the host reads its task's tags: %+v, %v", out, err)
	}
	_, err := p.host.ListTagsForResource(p.ctx, &ecs.ListTagsForResourceInput{ResourceArn: aws.String(prefix + "cluster/daemonset")})
	p.refused(err, "AccessDeniedException", "ecs:ListTagsForResource")
	for arn, want := range map[string][2]string{
		prefix + "cluster/none":                                {"ClusterNotFoundException", "Cluster not found."},
		prefix + "service/daemonset/none":                      {"ResourceNotFoundException", "wasn't found"},
		prefix + "service/none/none":                           {"ClusterNotFoundException", "Cluster not found."},
		prefix + "task-definition/none:1":                      {"ResourceNotFoundException", "wasn't found"},
		prefix + "capacity-provider/x":                         {"ResourceNotFoundException", "wasn't found"},
		prefix + "container/daemonset/a/b":                     {"InvalidParameterException", "Unsupported resource type: container"},
		prefix + "rocket/x":                                    {"InvalidParameterException", "Unsupported resource type: rocket"},
		"arn:aws:ecs:eu-west-1:123456789012:cluster/daemonset": {"InvalidParameterException", "region"},
		"daemonset": {"InvalidParameterException", "The ARN provided is invalid."},
	} {
		_, err := p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: &arn, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("1")}}})
		p.refused(err, want[0], want[1])
	}
	var many []types.Tag
	for i := range 50 {
		many = append(many, types.Tag{Key: aws.String(fmt.Sprint("k", i)), Value: aws.String("")})
	}
	_, err = p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: aws.String(prefix + "cluster/daemonset"), Tags: many})
	p.refused(err, "InvalidParameterException", "51 tags")
}

func TestAccountSettingsAreStoredAndEchoed(t *testing.T) {
	p := newPlane(t)
	list := func(in *ecs.ListAccountSettingsInput) string {
		t.Helper()
		var s []string
		for pages := ecs.NewListAccountSettingsPaginator(p.admin, in); pages.HasMorePages(); {
			page, err := pages.NextPage(p.ctx)
			p.must(err)
			for _, x := range page.Settings {
				s = append(s, string(x.Name)+"="+*x.Value)
			}
		}
		return strings.Join(s, " ")
	}
	if got := list(&ecs.ListAccountSettingsInput{}); got != "" {
		t.Errorf("nobody has set %s", got)
	}
	if got := list(&ecs.ListAccountSettingsInput{EffectiveSettings: true}); strings.Count(got, "=") != 12 || !strings.Contains(got, "defaultLogDriverMode=non-blocking") {
		t.Errorf("in force are %s", got)
	}
	put, err := p.admin.PutAccountSetting(p.ctx, &ecs.PutAccountSettingInput{Name: types.SettingNameContainerInsights, Value: aws.String("enabled")})
	p.must(err)
	if *put.Setting.Value != "enabled" || put.Setting.Type != types.SettingTypeUser || !strings.Contains(*put.Setting.PrincipalArn, ":user/") {
		t.Errorf("got %+v", put.Setting)
	}
	def, err := p.admin.PutAccountSettingDefault(p.ctx, &ecs.PutAccountSettingDefaultInput{Name: types.SettingNameContainerInsights, Value: aws.String("enhanced")})
	p.must(err)
	if *def.Setting.PrincipalArn != "arn:aws:iam::123456789012:root" {
		t.Errorf("got %+v", def.Setting)
	}
	if got := list(&ecs.ListAccountSettingsInput{}); got != "containerInsights=enabled" {
		t.Errorf("my own are %s", got)
	}
	made, err := p.admin.CreateCluster(p.ctx, &ecs.CreateClusterInput{ClusterName: aws.String("observed")})
	p.must(err)
	if *made.Cluster.Settings[0].Value != "enabled" {
		t.Errorf("a new cluster has %+v", made.Cluster.Settings)
	}
	gone, err := p.admin.DeleteAccountSetting(p.ctx, &ecs.DeleteAccountSettingInput{Name: types.SettingNameContainerInsights})
	p.must(err)
	if *gone.Setting.Value != "enhanced" {
		t.Errorf("then the account's holds, not %s", *gone.Setting.Value)
	}
	if got := list(&ecs.ListAccountSettingsInput{Name: types.SettingNameContainerInsights, EffectiveSettings: true}); got != "containerInsights=enhanced" {
		t.Errorf("in force is %s", got)
	}
	for body, want := range map[string]string{
		`{"name":"colour","value":"red"}`:                                                                  "InvalidParameterException: name should be one of",
		`{"name":"containerInsights","value":"red"}`:                                                       "InvalidParameterException: The value of the account setting containerInsights",
		`{"name":"serviceLongArnFormat","value":"disabled"}`:                                               "InvalidParameterException: The value of the account setting serviceLongArnFormat",
		`{"name":"guardDutyActivate","value":"on"}`:                                                        "InvalidParameterException: The account setting guardDutyActivate is managed",
		`{"name":"containerInsights","value":"enabled","principalArn":"arn:aws:iam::999999999999:user/x"}`: "InvalidParameterException: The principalArn",
	} {
		answer, status := p.call("PutAccountSetting", body)
		if got := fmt.Sprint(answer["__type"], ": ", answer["message"]); status != 400 || !strings.HasPrefix(got, want) {
			t.Errorf("%s: status %d: %s", body, status, got)
		}
	}
	if answer, status := p.call("ListAccountSettings", `{"maxResults":11}`); status != 400 || answer["__type"] != "InvalidParameterException" {
		t.Errorf("a page of 11: %v", answer)
	}
}
