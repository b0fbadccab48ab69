package api

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
)

// sizingOperation asks what containers used beside what they reserve. Administrators and readers may.
const sizingOperation = "Sizing"

// SizingInput asks for sizes: of one service, or of all and of standalone tasks. Cluster absent is the cluster default.
type SizingInput struct {
	Cluster string `json:"cluster,omitempty"`
	Service string `json:"service,omitempty"`
}

// sizing answers a Sizing call.
func (s *Server) sizing(ctx context.Context, body []byte) ([]byte, error) {
	var in SizingInput
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, exception("SerializationException", "The request body is not what Sizing takes: %v", err)
	}
	var cluster, service string
	err := s.read(ctx, func(v *store.View) (err error) {
		if cluster, err = s.clusterOf(v, aws.String(in.Cluster)); err != nil || in.Service == "" {
			return err
		}
		if service, err = s.memberRef(kindService, cluster, in.Service); err == nil && v.Service(cluster, service) == nil {
			err = exception("ServiceNotFoundException", "There is no service %q in cluster %s.", service, cluster)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(s.cfg.Sizing(cluster, service))
}
