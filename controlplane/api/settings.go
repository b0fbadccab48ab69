package api

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

func (s *Server) settingOperations() operations {
	return operations{
		"PutAccountSetting":        handle(s.putAccountSetting),
		"PutAccountSettingDefault": handle(s.putAccountSettingDefault),
		"ListAccountSettings":      handle(s.listAccountSettings),
		"DeleteAccountSetting":     handle(s.deleteAccountSetting),
	}
}

// wholeAccount is the principal of a setting that holds for everybody who has none of their own.
const wholeAccount = "default"

// settingDualStackIPv6 is in the documents and not in the SDK's list.
const settingDualStackIPv6 types.SettingName = "dualStackIPv6"

// settingRule is what a setting may be and what it is when nobody has set it.
type settingRule struct {
	initial string
	values  []string
	managed bool // set by AWS, not by users
}

var settingRules = map[types.SettingName]settingRule{
	types.SettingNameServiceLongArnFormat:            {initial: "enabled", values: []string{"enabled"}},
	types.SettingNameTaskLongArnFormat:               {initial: "enabled", values: []string{"enabled"}},
	types.SettingNameContainerInstanceLongArnFormat:  {initial: "enabled", values: []string{"enabled"}},
	types.SettingNameAwsvpcTrunking:                  {initial: "disabled", values: []string{"enabled", "disabled"}},
	types.SettingNameContainerInsights:               {initial: "disabled", values: []string{"enabled", "disabled", "enhanced"}},
	types.SettingNameFargateFipsMode:                 {initial: "disabled", values: []string{"enabled", "disabled"}},
	types.SettingNameTagResourceAuthorization:        {initial: "off", values: []string{"on", "off"}},
	types.SettingNameFargateTaskRetirementWaitPeriod: {initial: "7", values: []string{"0", "7", "14"}},
	types.SettingNameGuardDutyActivate:               {initial: "off", values: []string{"on", "off"}, managed: true},
	types.SettingNameDefaultLogDriverMode:            {initial: "non-blocking", values: []string{"blocking", "non-blocking"}},
	types.SettingNameFargateEventWindows:             {initial: "disabled", values: []string{"enabled", "disabled"}},
	settingDualStackIPv6:                             {initial: "enabled", values: []string{"enabled", "disabled"}},
}

// accountSetting is the value in force for a principal: its own, else the account's, else the initial one.
func (s *Server) accountSetting(v *store.View, principal string, name types.SettingName) string {
	for _, p := range []string{principal, wholeAccount} {
		if r := v.AccountSetting(string(name), p); r != nil {
			return r.Value
		}
	}
	return settingRules[name].initial
}

// settingPrincipal is the principal a call is about, as it is stored: the caller unless it names another. The account's
// root user stands for the account.
func (s *Server) settingPrincipal(c *call, arn *string) (string, error) {
	prefix := "arn:aws:iam::" + s.cfg.AccountID + ":"
	switch {
	case arn == nil || *arn == "":
		return c.principal(), nil
	case *arn == prefix+"root":
		return wholeAccount, nil
	case !strings.HasPrefix(*arn, prefix+"user/") && !strings.HasPrefix(*arn, prefix+"role/"):
		return "", invalid("The principalArn %.300q is invalid: it must be the root user, a user or a role of account %s.", *arn, s.cfg.AccountID)
	}
	return *arn, nil
}

func (s *Server) settingObject(name types.SettingName, principal, value string) types.Setting {
	if principal == wholeAccount {
		principal = "arn:aws:iam::" + s.cfg.AccountID + ":root"
	}
	kind := types.SettingTypeUser
	if settingRules[name].managed {
		kind = types.SettingTypeAwsManaged
	}
	return types.Setting{Name: name, Value: aws.String(value), PrincipalArn: aws.String(principal), Type: kind}
}

func checkSettingName(name types.SettingName) error {
	if _, ok := settingRules[name]; ok {
		return nil
	}
	known := make([]types.SettingName, 0, len(settingRules))
	for n := range settingRules {
		known = append(known, n)
	}
	slices.Sort(known)
	if name == "" {
		name = " "
	}
	return oneOf("name", name, known)
}

// putSetting writes the setting of a principal.
func (s *Server) putSetting(ctx context.Context, principal string, name types.SettingName, value string) (*types.Setting, error) {
	if err := checkSettingName(name); err != nil {
		return nil, err
	}
	rule := settingRules[name]
	if rule.managed {
		return nil, invalid("The account setting %s is managed by the control plane and can't be set.", name)
	}
	if !slices.Contains(rule.values, value) {
		return nil, invalid("The value of the account setting %s should be one of [%s], but was %.200q.", name, strings.Join(rule.values, ", "), value)
	}
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		r := store.AccountSetting{Name: string(name), Principal: principal, Value: value}
		if old := v.AccountSetting(r.Name, principal); old != nil {
			r.Meta = old.Meta
			txn.Update(&r)
		} else {
			txn.Create(&r)
		}
		return nil
	})
	object := s.settingObject(name, principal, value)
	return &object, err
}

func (s *Server) putAccountSetting(ctx context.Context, c *call, in *ecs.PutAccountSettingInput) (*ecs.PutAccountSettingOutput, error) {
	principal, err := s.settingPrincipal(c, in.PrincipalArn)
	if err != nil {
		return nil, err
	}
	setting, err := s.putSetting(ctx, principal, in.Name, aws.ToString(in.Value))
	return &ecs.PutAccountSettingOutput{Setting: setting}, err
}

func (s *Server) putAccountSettingDefault(ctx context.Context, _ *call, in *ecs.PutAccountSettingDefaultInput) (*ecs.PutAccountSettingDefaultOutput, error) {
	setting, err := s.putSetting(ctx, wholeAccount, in.Name, aws.ToString(in.Value))
	return &ecs.PutAccountSettingDefaultOutput{Setting: setting}, err
}

func (s *Server) listAccountSettings(ctx context.Context, c *call, in *ecs.ListAccountSettingsInput) (*ecs.ListAccountSettingsOutput, error) {
	principal, err := s.settingPrincipal(c, in.PrincipalArn)
	if err != nil {
		return nil, err
	}
	if in.Name != "" {
		if err := checkSettingName(in.Name); err != nil {
			return nil, err
		}
	} else if in.Value != nil {
		return nil, invalid("The filter value needs the filter name.")
	}
	settings := []types.Setting{}
	err = s.read(ctx, func(v *store.View) error {
		for name := range settingRules {
			own := v.AccountSetting(string(name), principal)
			if in.Name != "" && in.Name != name || own == nil && !in.EffectiveSettings {
				continue
			}
			value := s.accountSetting(v, principal, name)
			if in.Value == nil || *in.Value == value {
				settings = append(settings, s.settingObject(name, principal, value))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	key := func(x types.Setting) string { return string(x.Name) }
	slices.SortFunc(settings, func(a, b types.Setting) int { return strings.Compare(key(a), key(b)) })
	p := paging{token: in.NextToken, limit: 10, size: 10}
	if c.members.has("maxResults") {
		p.max = &in.MaxResults
	}
	page, next, err := paginate(c, p, settings, key)
	return &ecs.ListAccountSettingsOutput{Settings: orEmpty(page), NextToken: next}, err
}

// deleteAccountSetting removes a principal's own setting, and answers with what is in force then.
func (s *Server) deleteAccountSetting(ctx context.Context, c *call, in *ecs.DeleteAccountSettingInput) (*ecs.DeleteAccountSettingOutput, error) {
	principal, err := s.settingPrincipal(c, in.PrincipalArn)
	if err != nil {
		return nil, err
	}
	if err := checkSettingName(in.Name); err != nil {
		return nil, err
	}
	inForce := ""
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		inForce = s.accountSetting(v, wholeAccount, in.Name)
		own := v.AccountSetting(string(in.Name), principal)
		if own == nil {
			return errNothingToDo
		}
		if principal == wholeAccount {
			inForce = settingRules[in.Name].initial
		}
		txn.Delete(own)
		return nil
	})
	setting := s.settingObject(in.Name, principal, inForce)
	return &ecs.DeleteAccountSettingOutput{Setting: &setting}, err
}
