// Gives a CPU build of torch the device cuda:0. Its memory is the host's, and each operator runs its CPU kernel.
//
// torch asks three objects about a device type, and a CPU build leaves CUDA's places empty: the hooks, the device
// guard and the allocator. All kernels are one boxed function, `run_on_host`.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <map>
#include <mutex>
#include <set>

namespace {
using at::Tensor, c10::Device, c10::DeviceIndex, c10::DeviceType, c10::DispatchKey, c10::IValue, c10::Storage, c10::Stream;
const Device CARD(DeviceType::CUDA, 0), HOST(DeviceType::CPU);
c10::Allocator& host_allocator() { return *c10::GetAllocator(DeviceType::CPU); }

// ---- memory
struct Memory {
  std::mutex mutex;
  int64_t used = 0, peak = 0, limit = 0, calls = 0, fail_at = -1;

  int64_t take(int64_t bytes) {
    bytes = (bytes + 511) / 512 * 512;  // as CUDA's allocator
    std::lock_guard lock(mutex);
    bool fails = ++calls == fail_at || (limit && used + bytes > limit);
    TORCH_CHECK_WITH(OutOfMemoryError, !fails, "CUDA out of memory. Tried to allocate ", bytes, " bytes; ", used,
                     " of ", limit, " are in use (simulated)");
    peak = std::max(peak, used += bytes);
    return bytes;
  }
  void give_back(int64_t bytes) { std::lock_guard lock(mutex); used -= bytes; }
} memory;

// What a pointer of one device keeps alive: the storage of the other device that owns, or borrows, the same memory.
struct Owner {
  Storage storage;
  int64_t counted;
  static void free(void* owner) { memory.give_back(static_cast<Owner*>(owner)->counted); delete static_cast<Owner*>(owner); }
};
c10::DataPtr share(const Storage& storage, Device device) {
  int64_t counted = device == CARD ? memory.take(storage.nbytes()) : 0;
  return {const_cast<void*>(storage.data()), new Owner{storage, counted}, &Owner::free, device};
}
struct CardAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    return share(Storage(Storage::use_byte_size_t(), bytes, &host_allocator(), false), CARD);
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} card_allocator;

// Pinned host memory, by its first address.
struct PinnedAllocator final : c10::Allocator {
  static inline std::mutex mutex;
  static inline std::set<const void*> blocks;
  static bool holds(const void* start) { std::lock_guard lock(mutex); return blocks.count(start); }
  static void release(void* data) {
    auto* held = static_cast<c10::DataPtr*>(data);
    { std::lock_guard lock(mutex); blocks.erase(held->get()); }
    delete held;
  }
  c10::DataPtr allocate(size_t bytes) override {
    auto* held = new c10::DataPtr(host_allocator().allocate(std::max<size_t>(bytes, 1)));
    std::lock_guard lock(mutex);
    blocks.insert(held->get());
    return {held->get(), held, &release, HOST};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} pinned_allocator;

// ---- what torch asks about the device
struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return CARD; }
  Device getDevice() const override { return CARD; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, CARD); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, CARD); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
};
c10::impl::DeviceGuardImplRegistrar guard(DeviceType::CUDA, new Guard());

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
  bool isPinnedPtr(const void* start) const override { return PinnedAllocator::holds(start); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
};
using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", Hooks)

// ---- waits of the host for the card
int64_t sync_mode = 0;  // of torch.cuda.set_sync_debug_mode: 1 warns, 2 raises
std::atomic<int64_t> waits_in_all = 0;

void host_waits(const std::string& why) {
  ++waits_in_all;
  TORCH_CHECK(sync_mode != 2, "called a synchronizing CUDA operation: ", why);
  if (sync_mode == 1) TORCH_WARN("called a synchronizing CUDA operation: ", why);
}
// Operators whose result, or its shape, the host must know.
const std::set<std::string> WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select",
    "aten::equal", "aten::bincount", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"};

void check_waits(const std::string& name, at::ArrayRef<IValue> args) {
  bool waits = WAITING.count(name) || (name == "aten::repeat_interleave" && args[1].isNone());
  if (name == "aten::copy_") {
    auto to = args[0].toTensor(), from = args[1].toTensor();
    bool pinned = to.is_cpu() && PinnedAllocator::holds(to.storage().data());
    waits = to.device() != from.device() && (!args[2].toBool() || (to.is_cpu() && !pinned));
  } else if (name == "aten::index" || (name == "aten::_index_put_impl_" && args[2].toTensor().numel() != 1)) {
    for (const IValue& index : args[1].toListRef())  // masks become indices, indices of the host are copied
      waits |= !index.isNone() && (index.toTensor().dtype() == at::kBool || index.toTensor().is_cpu());
  }
  if (waits) host_waits(name);
}

// ---- random numbers: CPU kernels draw from the CPU's generator, which has the card's state while they run
at::CPUGeneratorImpl& generator(bool of_card) {
  static at::Generator card = at::detail::createCPUGenerator(0);
  return *(of_card ? card : at::detail::getDefaultCPUGenerator()).get<at::CPUGeneratorImpl>();
}
Tensor get_state(bool of_card) { return Tensor(generator(of_card).get_state()); }
void set_state(bool of_card, const Tensor& state) { generator(of_card).set_state(*state.unsafeGetTensorImpl()); }
struct CardDraws {
  Tensor host = get_state(false);
  CardDraws() { set_state(false, get_state(true)); }
  ~CardDraws() { set_state(true, get_state(false)); set_state(false, host); }
};

// ---- one call of an operator
Tensor view(const Storage& storage, const Tensor& like, DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(Storage(storage), c10::DispatchKeySet(key), like.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  impl->_set_conj(like.is_conj());
  impl->_set_neg(like.is_neg());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return made;
}
Storage storage_on(Device device, const Storage& other) {
  auto* allocator = device == CARD ? static_cast<c10::Allocator*>(&card_allocator) : &host_allocator();
  return Storage(Storage::use_byte_size_t(), other.nbytes(), share(other, device), allocator, true);
}
Tensor host_view(const Tensor& card) { return view(storage_on(HOST, card.storage()), card, DispatchKey::CPU); }
Tensor to_card(const Tensor& host) { return view(storage_on(CARD, host.storage()), host, DispatchKey::CUDA); }

// Replaces tensors of the card by views of the same memory on the host, and results of the host by tensors of the card.
struct Call {
  std::vector<std::pair<Storage, Storage>> storages;  // of the card, of the host
  std::vector<std::pair<Tensor, Tensor>> tensors;
  std::vector<Tensor> of_host;
  bool makes_on_card = false, mixes = false, host_generator = false;

  Storage lower(const Storage& card) {
    if (card.device() != CARD) return card;
    for (auto& [own, host] : storages) if (own.is_alias_of(card)) return host;
    return storages.emplace_back(card, storage_on(HOST, card)).second;
  }
  Tensor lower(const Tensor& card) {
    if (card.defined() && !card.is_cuda()) {
      mixes |= card.dim() > 0;  // a number may come along
      of_host.push_back(card);
    }
    if (!card.defined() || !card.is_cuda()) return card;
    for (auto& [own, host] : tensors) if (own.is_same(card)) return host;
    return tensors.emplace_back(card, view(lower(card.storage()), card, DispatchKey::CPU)).second;
  }
  void lower(IValue& value) {
    if (value.isTensor()) value = lower(value.toTensor());
    else if (value.isStorage()) value = lower(value.toStorage());
    else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& one : value.toTensorVector()) list.push_back(lower(one));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const IValue& one : value.toListRef())
        list.push_back(one.isNone() ? std::nullopt : std::optional<Tensor>(lower(one.toTensor())));
      value = list;
    } else if (value.isDevice() && value.toDevice().is_cuda()) {
      makes_on_card = true;
      value = HOST;
    } else if (value.isGenerator()) host_generator = true;
  }
  Storage raise(const Storage& host) {
    for (auto& [card, own] : storages) if (own.is_alias_of(host)) return card;
    return storages.emplace_back(storage_on(CARD, host), host).first;
  }
  Tensor raise(const Tensor& host) {
    if (!host.defined() || !host.is_cpu() || (tensors.empty() && !makes_on_card)) return host;
    for (auto& [card, own] : tensors) if (own.is_same(host)) return card;
    for (auto& own : of_host) if (own.is_same(host)) return host;
    return view(raise(host.storage()), host, DispatchKey::CUDA);
  }
  void raise(IValue& value) {
    if (value.isTensor()) value = raise(value.toTensor());
    else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& one : value.toTensorVector()) list.push_back(raise(one));
      value = list;
    }
  }
  // Gives the card's tensors what the kernel changed in place other than numbers: storages, their memory, and shapes.
  void follow() {
    for (auto& [card, host] : storages)
      if (host.data() != card.data()) {
        card.set_data_ptr_noswap(share(host, CARD));
        card.set_nbytes(host.nbytes());
      }
    for (auto& [card, host] : tensors) {
      auto* impl = card.unsafeGetTensorImpl();
      if (Storage now = raise(host.storage()); !now.is_alias_of(card.storage())) impl->set_storage_keep_dtype(now);
      if (card.sizes() != host.sizes() || card.strides() != host.strides() || card.storage_offset() != host.storage_offset())
        impl->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
  }
};

void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const std::string& name = op.schema().name();
  const size_t first = stack->size() - op.schema().arguments().size();
  check_waits(name, at::ArrayRef<IValue>(*stack).slice(first));
  bool into_card = (*stack)[first].isTensor() && (*stack)[first].toTensor().is_cuda();
  bool may_mix = name == "aten::copy_" || (into_card && (name == "aten::index" || name == "aten::_index_put_impl_")) ||
      name.rfind("bitsandbytes::optimizer_update", 0) == 0;  // paged state calls itself a tensor of the CPU
  Call call;
  for (size_t at = first; at < stack->size(); ++at) call.lower((*stack)[at]);
  TORCH_CHECK(may_mix || call.tensors.empty() || !call.mixes, "Expected all tensors to be on the same device, but found "
              "at least two devices, cuda:0 and cpu! (simulated, in ", name, ")");
  TORCH_CHECK(!call.host_generator, "Expected a 'cuda' device type for generator but found 'cpu' (simulated, in ", name, ")");
  {
    std::optional<CardDraws> draws;
    if (op.hasTag(at::Tag::nondeterministic_seeded)) draws.emplace();
    op.redispatchBoxed(c10::DispatchKeySet(DispatchKey::CPU), stack);
  }
  call.follow();
  for (size_t at = stack->size() - op.schema().returns().size(); at < stack->size(); ++at) call.raise((*stack)[at]);
}

// Which kernel scaled_dot_product_attention takes on a card: the rules of sdp_utils.cpp that matter here.
int64_t choose_attention(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask,
                         double dropout, bool causal, std::optional<double>, bool shares_heads) {
  auto& context = at::globalContext();
  bool half = query.dtype() == at::kHalf || query.dtype() == at::kBFloat16, shares = query.size(1) != key.size(1);
  bool square = query.size(-2) == key.size(-2), fits = query.size(-1) == value.size(-1) && query.size(-1) <= 256;
  if (!dropout && context.userEnabledFlashSDP() && half && fits && !mask && (square || !causal) && (!shares || shares_heads))
    return static_cast<int64_t>(at::SDPBackend::flash_attention);
  bool efficient = !dropout && context.userEnabledMemEfficientSDP() && !shares;
  return static_cast<int64_t>(efficient ? at::SDPBackend::efficient_attention : at::SDPBackend::math);
}

// Registers `run_on_host` for each operator that has a kernel for the CPU, none for CUDA, and is not among `own`.
void install(const std::set<std::string>& own) {
  c10::SetAllocator(DeviceType::CUDA, &card_allocator);
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose_attention);
  static std::map<std::string, torch::Library> libraries;
  for (const auto& name : c10::Dispatcher::singleton().getAllOpNames()) {
    auto op = c10::Dispatcher::singleton().findOp(name);
    auto space = name.name.substr(0, name.name.find("::"));
    if (!op || own.count(name.name) || (space != "aten" && space != "bitsandbytes")) continue;
    bool on_cpu = op->hasKernelForDispatchKey(DispatchKey::CPU) || name.name == "aten::copy_";
    if (!on_cpu || op->hasKernelForDispatchKey(DispatchKey::CUDA)) continue;
    auto full = name.name + (name.overload_name.empty() ? "" : "." + name.overload_name);
    libraries.try_emplace(space, torch::Library::IMPL, space, DispatchKey::CUDA, __FILE__, __LINE__)
        .first->second.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  }
}
}  // namespace

TORCH_LIBRARY(simulated_cuda, m) {
  m.def("install(str[] own) -> ()", [](c10::List<std::string> own) { auto v = own.vec(); install({v.begin(), v.end()}); });
  m.def("host_view", &host_view);
  m.def("to_card", &to_card);
  m.def("memory() -> int[]", [] { std::lock_guard l(memory.mutex); return std::vector{memory.used, memory.peak, memory.calls}; });
  m.def("reset_peak() -> ()", [] { std::lock_guard l(memory.mutex); memory.peak = memory.used; });
  m.def("set_limit(int bytes) -> ()", [](int64_t bytes) { std::lock_guard l(memory.mutex); memory.limit = bytes; });
  m.def("fail_allocation(int calls) -> ()", [](int64_t calls) { std::lock_guard l(memory.mutex); memory.fail_at = memory.calls + calls; });
  m.def("set_sync_mode(int mode) -> ()", [](int64_t mode) { sync_mode = mode; });
  m.def("waits() -> int", [] { return waits_in_all.load(); });
  m.def("host_waits(str why) -> ()", [](std::string why) { host_waits(why); });
  m.def("rng_state() -> Tensor", [] { return get_state(true); });
  m.def("set_rng_state", [](const Tensor& state) { set_state(true, state); });
  m.def("seed(int seed) -> ()", [](int64_t seed) { generator(true).set_current_seed(seed); });
}
