package engine

import (
	"cmp"
	"fmt"

	"github.com/containerd/errdefs"
)

// LogsElsewhere is the error of Runtime.Logs for a container whose output can't be read here: it says where it is, and how to read it
// there. Its class is NotFound.
func LogsElsewhere(container, driver string, options map[string]string) error {
	where := fmt.Sprintf("with the log driver %s nothing is kept that can be read here", driver)
	switch driver {
	case "none":
		where = "with the log driver none it is dropped; name another in the task definition's logConfiguration"
	case "awslogs":
		stream := cmp.Or(options["awslogs-stream"], options["tag"], "the container's id")
		where = fmt.Sprintf("it is in CloudWatch Logs: aws logs tail %s --log-stream-names %s --region %s", options["awslogs-group"], stream, cmp.Or(options["awslogs-region"], "REGION"))
	case "syslog":
		where = "it is with the syslog server " + cmp.Or(options["syslog-address"], "of this host")
	case "fluentd":
		where = "it is with Fluentd, or the task's log router, at " + cmp.Or(options["fluentd-address"], "127.0.0.1:24224")
	case "gelf":
		where = "it is with the GELF server " + options["gelf-address"]
	case "splunk":
		where = "it is with Splunk at " + options["splunk-url"]
	case "journald":
		where = "it is in the host's journal: journalctl CONTAINER_NAME=" + container
	}
	return fmt.Errorf("the output of container %s can't be read here: %s: %w", container, where, errdefs.ErrNotFound)
}
