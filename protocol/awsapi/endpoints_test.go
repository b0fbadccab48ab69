package awsapi

import (
	"strings"
	"testing"
)

func TestEndpointsAreTheSDKs(t *testing.T) {
	fips, dual, both := Endpoints{FIPS: true}, Endpoints{DualStack: true}, Endpoints{FIPS: true, DualStack: true}
	all, own := Endpoints{All: "http://all:1/"}, Endpoints{All: "http://all:1", S3: "https://minio:9000"}
	for _, c := range []struct {
		e      *Endpoints
		s      *service
		region string
		want   string
	}{
		{&Endpoints{}, &ssm, "us-west-2", "https://ssm.us-west-2.amazonaws.com"},
		{&Endpoints{}, &secretsManager, "eu-west-1", "https://secretsmanager.eu-west-1.amazonaws.com"},
		{&Endpoints{}, &ecr, "us-west-2", "https://api.ecr.us-west-2.amazonaws.com"},
		{&Endpoints{}, &s3, "us-west-2", "https://s3.us-west-2.amazonaws.com"},
		{&Endpoints{}, &ecr, "cn-north-1", "https://api.ecr.cn-north-1.amazonaws.com.cn"},
		{&Endpoints{}, &ssm, "us-gov-west-1", "https://ssm.us-gov-west-1.amazonaws.com"},
		{&Endpoints{}, &s3, "us-iso-east-1", "https://s3.us-iso-east-1.c2s.ic.gov"},
		{&fips, &ssm, "us-west-2", "https://ssm-fips.us-west-2.amazonaws.com"},
		{&fips, &ssm, "us-gov-west-1", "https://ssm.us-gov-west-1.amazonaws.com"},
		{&fips, &secretsManager, "us-gov-west-1", "https://secretsmanager-fips.us-gov-west-1.amazonaws.com"},
		{&fips, &ecr, "us-west-2", "https://ecr-fips.us-west-2.amazonaws.com"},
		{&fips, &s3, "us-west-2", "https://s3-fips.us-west-2.amazonaws.com"},
		{&dual, &ssm, "us-west-2", "https://ssm.us-west-2.api.aws"},
		{&dual, &ecr, "us-west-2", "https://ecr.us-west-2.api.aws"},
		{&dual, &secretsManager, "cn-north-1", "https://secretsmanager.cn-north-1.api.amazonwebservices.com.cn"},
		{&dual, &s3, "us-west-2", "https://s3.dualstack.us-west-2.amazonaws.com"},
		{&both, &ecr, "us-west-2", "https://ecr-fips.us-west-2.api.aws"},
		{&both, &s3, "us-west-2", "https://s3-fips.dualstack.us-west-2.amazonaws.com"},
		{&all, &ecr, "us-west-2", "http://all:1"},
		{&own, &ecr, "us-west-2", "http://all:1"},
		{&own, &s3, "us-west-2", "https://minio:9000"},
	} {
		if got := c.e.of(c.s, c.region); got != c.want {
			t.Errorf("%+v %s %s: %s, not %s", *c.e, c.s.name, c.region, got, c.want)
		}
	}
}

func TestABucketIsAHostAtAWSAndAPathElsewhere(t *testing.T) {
	for _, c := range []struct {
		e            Endpoints
		bucket, want string
	}{
		{Endpoints{}, "my-bucket", "https://my-bucket.s3.us-west-2.amazonaws.com"},
		{Endpoints{}, "my.bucket", "https://s3.us-west-2.amazonaws.com/my.bucket"},
		{Endpoints{S3: "http://minio:9000"}, "my-bucket", "http://minio:9000/my-bucket"},
		{Endpoints{}, "..", ""},
		{Endpoints{}, "a/b", ""},
		{Endpoints{}, "", ""},
	} {
		if got, err := c.e.bucket("us-west-2", c.bucket); got != c.want || (err == nil) == (c.want == "") {
			t.Errorf("%+v %q: %q %v", c.e, c.bucket, got, err)
		}
	}
}

func TestAWrongURLIsNamedByItsSetting(t *testing.T) {
	for _, e := range []Endpoints{{S3: "minio:9000"}, {S3: "ftp://x"}, {S3: "http://"}, {S3: "http://a:b@c"}, {S3: "http://x?q"}} {
		if err := e.Check(); err == nil || !strings.Contains(err.Error(), "AWS_ENDPOINT_URL_S3") {
			t.Errorf("%q: %v", e.S3, err)
		}
	}
	if err := (&Endpoints{All: "http://[::1]:4566", ECR: "https://x"}).Check(); err != nil {
		t.Error(err)
	}
}
