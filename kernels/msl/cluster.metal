// cluster.metal: CLUSTER threadgroups, neighbours along x, that run at the same time and write into each other's
// threadgroup memory. CUDA has them from Hopper on (launched so where a template says CLUSTER); elsewhere CLUSTER is 1.
//
// Every thread of the cluster calls, in this order: cluster_begins; cluster_wait, after which all have begun; cluster_store
// as often as it wants; cluster_arrive; cluster_wait, where it reads what others have stored.
#if !defined(MSL_CUDA) && !defined(MSL_CLUSTERS)
template <int CLUSTER>
METAL_FUNC void cluster_begins() { static_assert(CLUSTER == 1, "there are no clusters here"); }
template <int CLUSTER>
METAL_FUNC void cluster_arrive() { static_assert(CLUSTER == 1, "there are no clusters here"); }
template <int CLUSTER>
METAL_FUNC void cluster_wait() { static_assert(CLUSTER == 1, "there are no clusters here"); }

// *at = value in the threadgroup memory of the cluster's threadgroup `rank`, where `at` is in one's own.
template <int CLUSTER>
METAL_FUNC void cluster_store(threadgroup float* at, uint, float value) {
  static_assert(CLUSTER == 1, "there are no clusters here");
  *at = value;
}
#endif
