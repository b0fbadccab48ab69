package awsapi

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
)

// Endpoints says where the services are, under the SDK's own rules: a service's URL (AWS_ENDPOINT_URL_SSM,
// AWS_ENDPOINT_URL_SECRETS_MANAGER, AWS_ENDPOINT_URL_ECR, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL_EC2), else that of all (AWS_ENDPOINT_URL), else
// the region's own, of the kind that FIPS (AWS_USE_FIPS_ENDPOINT) and DualStack (AWS_USE_DUALSTACK_ENDPOINT) ask for.
type Endpoints struct {
	All, SSM, SecretsManager, ECR, S3, EC2 string
	FIPS, DualStack                        bool
}

// Check finds a URL that can't be one.
func (e *Endpoints) Check() error {
	for _, x := range []struct{ name, url string }{
		{"AWS_ENDPOINT_URL", e.All}, {"AWS_ENDPOINT_URL_SSM", e.SSM}, {"AWS_ENDPOINT_URL_SECRETS_MANAGER", e.SecretsManager},
		{"AWS_ENDPOINT_URL_ECR", e.ECR}, {"AWS_ENDPOINT_URL_S3", e.S3}, {"AWS_ENDPOINT_URL_EC2", e.EC2},
	} {
		if x.url == "" {
			continue
		}
		if u, err := url.Parse(x.url); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return fmt.Errorf("%s must be http(s)://host[:port]", x.name)
		}
	}
	return nil
}

// service is a service and how it is called.
type service struct {
	name      string // in signatures
	target    string // before the operation's name
	host      string // before the region
	fips      string
	dualStack string
	given     func(*Endpoints) string
}

var (
	ssm = service{name: "ssm", target: "AmazonSSM.", host: "ssm", fips: "ssm-fips", dualStack: "ssm",
		given: func(e *Endpoints) string { return e.SSM }}
	secretsManager = service{name: "secretsmanager", target: "secretsmanager.", host: "secretsmanager", fips: "secretsmanager-fips", dualStack: "secretsmanager",
		given: func(e *Endpoints) string { return e.SecretsManager }}
	ecr = service{name: "ecr", target: "AmazonEC2ContainerRegistry_V20150921.", host: "api.ecr", fips: "ecr-fips", dualStack: "ecr",
		given: func(e *Endpoints) string { return e.ECR }}
	logs = service{name: "logs", target: "Logs_20140328.", host: "logs", fips: "logs-fips", dualStack: "logs", given: func(*Endpoints) string { return "" }}
	ec2  = service{name: "ec2", host: "ec2", fips: "ec2-fips", dualStack: "ec2", given: func(e *Endpoints) string { return e.EC2 }}
	s3   = service{name: "s3", host: "s3", fips: "s3-fips", dualStack: "s3.dualstack", given: func(e *Endpoints) string { return e.S3 }}
)

// partition is a part of AWS that has domains of its own.
type partition struct {
	regions           string // how their names begin
	domain, dualStack string
}

var partitions = []partition{
	{"cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"},
	{"us-iso-", "c2s.ic.gov", "api.aws.ic.gov"},
	{"us-isob-", "sc2s.sgov.gov", "api.aws.scloud"},
	{"us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"},
	{"eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"},
	{"eusc-", "amazonaws.eu", "api.amazonwebservices.eu"},
	{"", "amazonaws.com", "api.aws"},
}

func partitionOf(region string) *partition {
	for i := range partitions {
		if strings.HasPrefix(region, partitions[i].regions) {
			return &partitions[i]
		}
	}
	return nil // the last one matches all
}

// override is the URL that was given for a service, empty if none was.
func (e *Endpoints) override(s *service) string {
	given := s.given(e)
	if given == "" {
		given = e.All
	}
	return strings.TrimRight(given, "/")
}

// of is a service's URL in a region.
func (e *Endpoints) of(s *service, region string) string {
	if given := e.override(s); given != "" {
		return given
	}
	return "https://" + e.host(s, region)
}

func (e *Endpoints) host(s *service, region string) string {
	p := partitionOf(region)
	host, domain := s.host, p.domain
	if e.FIPS && (s != &ssm || !strings.HasPrefix(region, "us-gov-")) { // there the ordinary one is validated
		host = s.fips
	}
	if e.DualStack && s == &s3 { // S3 came before the domains for both kinds of addresses
		host += strings.TrimPrefix(s.dualStack, s.host)
	} else if e.DualStack {
		domain = p.dualStack
		if !e.FIPS {
			host = s.dualStack
		}
	}
	return host + "." + region + "." + domain
}

// plainBucket is a bucket's name that may be a part of a host's: without dots, which a certificate would not cover.
var plainBucket = late(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)

// bucketName is what may stand in a URL's path as a bucket.
var bucketName = late(`^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$`)

// late is an expression that is compiled when it is needed: together they take 0.3 MiB, in a log process beside each container.
func late(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// bucket is the URL of a bucket: a host of its own at AWS, and a path where the endpoint was given, which every service
// that is compatible with S3 understands.
func (e *Endpoints) bucket(region, bucket string) (string, error) {
	if !bucketName().MatchString(bucket) {
		return "", fmt.Errorf("%.100q is not the name of a bucket", bucket)
	}
	base := e.of(&s3, region)
	if given := e.override(&s3); given != "" || !plainBucket().MatchString(bucket) {
		return base + "/" + bucket, nil
	}
	return "https://" + bucket + "." + strings.TrimPrefix(base, "https://"), nil
}
