// Package tcs is the wire model of the TCS web socket, over which an agent publishes telemetry.
//
// Frames are text and asymmetric. What a server sends is a bare envelope, {"type": "<name>", "message": {…}}, as in ACS:
// [Encode] and [Decode]. What an agent sends has header lines before the envelope, the way an HTTP request has: a signature
// of a GET of the connection's URL with the envelope as its body. [Frame] puts them together and [SplitFrame] takes them
// apart.
//
//	control plane → agent   HeartbeatMessage, AckPublishMetric, AckPublishHealth, AckPublishInstanceStatus,
//	                        StopTelemetrySessionMessage and the exceptions
//	agent → control plane   PublishMetricsRequest, PublishHealthRequest, PublishInstanceStatusRequest
//	of our own              LongshoreProgress (progress.go), only where the answer to the handshake asks for it
//
// Members whose type is a pointer are left out when nil. Nothing is sent again when an acknowledgement is missing.
package tcs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"time"
)

// HeartbeatMessage keeps a connection alive; it is not answered. A server that sends no acknowledgements must send one at
// least once a minute.
type HeartbeatMessage struct {
	Healthy bool `json:"healthy"`
}

// AckPublishMetric answers a [PublishMetricsRequest].
type AckPublishMetric struct {
	Message string `json:"message"`
}

// AckPublishHealth answers a [PublishHealthRequest].
type AckPublishHealth struct {
	Message string `json:"message"`
}

// AckPublishInstanceStatus answers a [PublishInstanceStatusRequest].
type AckPublishInstanceStatus struct {
	Message string `json:"message"`
}

// StopTelemetrySessionMessage asks an agent to end the session.
type StopTelemetrySessionMessage struct {
	Message string `json:"message"`
}

// PublishMetricsRequest carries the metrics of one period, or a part of it: all parts share Metadata.MessageID, and the
// last one has Metadata.Fin set. A host without tasks sends one with Idle and Fin set and no TaskMetrics.
type PublishMetricsRequest struct {
	Metadata        *MetricsMetadata `json:"metadata,omitempty"`
	InstanceMetrics *InstanceMetrics `json:"instanceMetrics,omitempty"`
	TaskMetrics     []*TaskMetric    `json:"taskMetrics,omitempty"`
	Timestamp       *Time            `json:"timestamp,omitempty"`
}

// MetricsMetadata says whose metrics these are.
type MetricsMetadata struct {
	Cluster           string `json:"cluster"`
	ContainerInstance string `json:"containerInstance"`
	Fin               bool   `json:"fin"`
	Idle              bool   `json:"idle"`
	MessageID         string `json:"messageId"`
}

// InstanceMetrics is about the host itself.
type InstanceMetrics struct {
	GeneralMetricsPayload []*GeneralMetricsWrapper `json:"generalMetricsPayload,omitempty"`
	Storage               *InstanceStorage         `json:"storage,omitempty"`
}

// InstanceStorage is the percentage in use of the host's file systems.
type InstanceStorage struct {
	DataFilesystem *float64 `json:"dataFilesystem,omitempty"`
	RootFilesystem *float64 `json:"rootFilesystem,omitempty"`
}

// TaskMetric is what a task used in a period.
type TaskMetric struct {
	ClusterArn                   string                   `json:"clusterArn,omitempty"`
	ContainerMetrics             []*ContainerMetric       `json:"containerMetrics,omitempty"`
	EphemeralStorageMetrics      *EphemeralStorageMetrics `json:"ephemeralStorageMetrics,omitempty"`
	ServiceConnectMetricsWrapper []*GeneralMetricsWrapper `json:"serviceConnectMetricsWrapper,omitempty"`
	TaskArn                      string                   `json:"taskArn"`
	TaskDefinitionFamily         string                   `json:"taskDefinitionFamily"`
	TaskDefinitionVersion        string                   `json:"taskDefinitionVersion"`
	VolumeMetrics                []*VolumeMetric          `json:"volumeMetrics,omitempty"`
}

// EphemeralStorageMetrics is a task's use of its ephemeral storage.
type EphemeralStorageMetrics struct {
	BytesUtilized *ULongStatsSet `json:"bytesUtilized,omitempty"`
}

// VolumeMetric is the use of a volume.
type VolumeMetric struct {
	Size       *UDoubleCWStatsSet `json:"size,omitempty"`
	Utilized   *UDoubleCWStatsSet `json:"utilized,omitempty"`
	VolumeID   string             `json:"volumeId,omitempty"`
	VolumeName string             `json:"volumeName,omitempty"`
}

// ContainerMetric is what a container used in a period. CPU is a percentage of the whole host (100: all cores busy),
// memory is in MiB.
type ContainerMetric struct {
	ContainerArn          string                   `json:"containerArn,omitempty"`
	ContainerName         string                   `json:"containerName"`
	CPUStatsSet           *CWStatsSet              `json:"cpuStatsSet,omitempty"`
	GeneralMetricsPayload []*GeneralMetricsWrapper `json:"generalMetricsPayload,omitempty"`
	MemoryStatsSet        *CWStatsSet              `json:"memoryStatsSet,omitempty"`
	NetworkStatsSet       *NetworkStatsSet         `json:"networkStatsSet,omitempty"`
	RestartStatsSet       *RestartStatsSet         `json:"restartStatsSet,omitempty"`
	StorageStatsSet       *StorageStatsSet         `json:"storageStatsSet,omitempty"`
}

// CWStatsSet sums up the samples of a period.
type CWStatsSet struct {
	Max         float64 `json:"max"`
	Min         float64 `json:"min"`
	SampleCount int64   `json:"sampleCount"`
	Sum         float64 `json:"sum"`
}

// UDoubleCWStatsSet is a [CWStatsSet] of values that are not negative.
type UDoubleCWStatsSet CWStatsSet

// ULongStatsSet sums up the samples of a counter. A value above 2⁶³−1 is 2⁶³−1 in its member and the rest in the overflow
// member.
type ULongStatsSet struct {
	Max         int64 `json:"max"`
	Min         int64 `json:"min"`
	OverflowMax int64 `json:"overflowMax"`
	OverflowMin int64 `json:"overflowMin"`
	OverflowSum int64 `json:"overflowSum"`
	SampleCount int64 `json:"sampleCount"`
	Sum         int64 `json:"sum"`
}

// Split divides a counter's value into what fits 63 bits and the rest, as [ULongStatsSet] wants it.
func Split(v uint64) (value, overflow int64) {
	if v <= math.MaxInt64 {
		return int64(v), 0
	}
	return math.MaxInt64, int64(min(v-math.MaxInt64, math.MaxInt64))
}

// NetworkStatsSet is a container's network traffic.
type NetworkStatsSet struct {
	RxBytes          *ULongStatsSet     `json:"rxBytes,omitempty"`
	RxBytesPerSecond *UDoubleCWStatsSet `json:"rxBytesPerSecond,omitempty"`
	RxDropped        *ULongStatsSet     `json:"rxDropped,omitempty"`
	RxErrors         *ULongStatsSet     `json:"rxErrors,omitempty"`
	RxPackets        *ULongStatsSet     `json:"rxPackets,omitempty"`
	TxBytes          *ULongStatsSet     `json:"txBytes,omitempty"`
	TxBytesPerSecond *UDoubleCWStatsSet `json:"txBytesPerSecond,omitempty"`
	TxDropped        *ULongStatsSet     `json:"txDropped,omitempty"`
	TxErrors         *ULongStatsSet     `json:"txErrors,omitempty"`
	TxPackets        *ULongStatsSet     `json:"txPackets,omitempty"`
}

// RestartStatsSet counts restarts by a restart policy.
type RestartStatsSet struct {
	RestartCount int64 `json:"restartCount"`
}

// StorageStatsSet is a container's block I/O.
type StorageStatsSet struct {
	ReadSizeBytes  *ULongStatsSet `json:"readSizeBytes,omitempty"`
	WriteSizeBytes *ULongStatsSet `json:"writeSizeBytes,omitempty"`
}

// GeneralMetricsWrapper carries metrics that have no member of their own. MetricType is "1" or "2".
type GeneralMetricsWrapper struct {
	Dimensions     []*Dimension     `json:"dimensions,omitempty"`
	GeneralMetrics []*GeneralMetric `json:"generalMetrics,omitempty"`
	MetricType     string           `json:"metricType,omitempty"`
}

// Dimension is a dimension of a metric.
type Dimension struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// GeneralMetric is a metric by name.
type GeneralMetric struct {
	MetricCounts        []int64     `json:"metricCounts,omitempty"`
	MetricName          string      `json:"metricName"`
	MetricValueDouble   *float64    `json:"metricValueDouble,omitempty"`
	MetricValueLong     *int64      `json:"metricValueLong,omitempty"`
	MetricValueStatsSet *CWStatsSet `json:"metricValueStatsSet,omitempty"`
	MetricValues        []float64   `json:"metricValues,omitempty"`
	Unit                string      `json:"unit,omitempty"`
}

// PublishHealthRequest carries the health of containers that have a health check.
type PublishHealthRequest struct {
	Metadata  *HealthMetadata `json:"metadata,omitempty"`
	Tasks     []*TaskHealth   `json:"tasks,omitempty"`
	Timestamp *Time           `json:"timestamp,omitempty"`
}

// HealthMetadata says whose health this is.
type HealthMetadata struct {
	Cluster           string `json:"cluster"`
	ContainerInstance string `json:"containerInstance"`
	Fin               bool   `json:"fin"`
	MessageID         string `json:"messageId"`
}

// TaskHealth is the health of a task's containers.
type TaskHealth struct {
	ClusterArn            string             `json:"clusterArn,omitempty"`
	Containers            []*ContainerHealth `json:"containers,omitempty"`
	TaskArn               string             `json:"taskArn"`
	TaskDefinitionFamily  string             `json:"taskDefinitionFamily"`
	TaskDefinitionVersion string             `json:"taskDefinitionVersion"`
}

// The values of [ContainerHealth].HealthStatus.
const (
	Healthy   = "HEALTHY"
	Unhealthy = "UNHEALTHY"
	Unknown   = "UNKNOWN"
)

// ContainerHealth is the outcome of a container's health check.
type ContainerHealth struct {
	ContainerName string `json:"containerName"`
	HealthStatus  string `json:"healthStatus"`
	StatusMessage string `json:"statusMessage,omitempty"`
	StatusSince   *Time  `json:"statusSince,omitempty"`
}

// PublishInstanceStatusRequest carries the outcome of the agent's checks of its host.
type PublishInstanceStatusRequest struct {
	Metadata  *InstanceStatusMetadata `json:"metadata,omitempty"`
	Statuses  []*InstanceStatus       `json:"statuses,omitempty"`
	Timestamp *Time                   `json:"timestamp,omitempty"`
}

// InstanceStatusMetadata says whose status this is.
type InstanceStatusMetadata struct {
	Cluster           string `json:"cluster"`
	ContainerInstance string `json:"containerInstance"`
	RequestID         string `json:"requestId"`
}

// The values of [InstanceStatus].Status and Type.
const (
	StatusOK               = "OK"
	StatusImpaired         = "IMPAIRED"
	StatusInsufficientData = "INSUFFICIENT_DATA"
	StatusInitializing     = "INITIALIZING"

	TypeContainerRuntime = "ContainerRuntime"
	TypeEBSDaemon        = "EBSDaemon"
	TypeAgent            = "Agent"
	TypeAccelerated      = "ACCELERATED_COMPUTE"
)

// InstanceStatus is one check's outcome.
type InstanceStatus struct {
	LastStatusChange *Time  `json:"lastStatusChange,omitempty"`
	LastUpdated      *Time  `json:"lastUpdated,omitempty"`
	Status           string `json:"status"`
	StatusReason     string `json:"statusReason,omitempty"`
	Type             string `json:"type"`
}

// Time is a point in time, on the wire seconds since the epoch with at most three decimals; an RFC 3339 string is read too.
type Time struct{ time.Time }

// At makes a Time.
func At(t time.Time) *Time { return &Time{t} }

// MarshalJSON writes seconds since the epoch.
func (t Time) MarshalJSON() ([]byte, error) {
	ms := t.UnixMilli()
	return []byte(new(big.Rat).SetFrac64(ms, 1000).FloatString(3)), nil
}

// UnmarshalJSON reads seconds since the epoch, or RFC 3339.
func (t *Time) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &t.Time)
	}
	f, err := strconv.ParseFloat(string(bytes.TrimSpace(b)), 64)
	if err != nil || f < -62135596800 || f > 253402300799 {
		return fmt.Errorf("%.40s is not a timestamp", b)
	}
	sec, frac := math.Modf(f)
	t.Time = time.Unix(int64(sec), int64(math.Round(frac*1e3))*1e6).UTC()
	return nil
}
