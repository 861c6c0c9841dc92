from hardway.tasks.api import RunningCluster as RunningCluster
from hardway.tasks.api import cluster as cluster
