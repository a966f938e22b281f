// Gives a CPU build of torch the device cuda:0. Its memory is the host's, and each operator runs its CPU kernel.
//
// torch asks three objects for a device type, and a CPU build leaves the places of CUDA's empty: the hooks
// (CUDAHooksInterface), the device guard, and the allocator. The kernels are one boxed function, `run_on_host`.
#include <ATen/Context.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>

namespace {
using at::Tensor;
using c10::Device, c10::DeviceType, c10::DispatchKey, c10::IValue, c10::Storage, c10::Stream;

const Device CARD(DeviceType::CUDA, 0);

// ---- memory -------------------------------------------------------------------------------------------------------
constexpr int64_t BLOCK = 512;  // CUDA's allocator rounds up to it

struct Memory {
  std::mutex mutex;
  int64_t used = 0, peak = 0, limit = 0, calls = 0, fail_at = -1;

  int64_t take(int64_t bytes) {
    bytes = (bytes + BLOCK - 1) / BLOCK * BLOCK;
    std::lock_guard lock(mutex);
    bool fails = ++calls == fail_at || (limit && used + bytes > limit);
    TORCH_CHECK_WITH(OutOfMemoryError, !fails, "CUDA out of memory. Tried to allocate ", bytes, " bytes; ", used,
                     " of ", limit, " are in use (simulated)");
    used += bytes;
    peak = std::max(peak, used);
    return bytes;
  }
  void give_back(int64_t bytes) {
    std::lock_guard lock(mutex);
    used -= bytes;
  }
} memory;

// What a pointer of one device keeps alive: the storage of the other device, whose memory it shares.
struct Alias {
  Storage storage;
  int64_t counted;
  static void free(void* alias) {
    memory.give_back(static_cast<Alias*>(alias)->counted);
    delete static_cast<Alias*>(alias);
  }
};

c10::DataPtr share(const Storage& storage, Device device) {
  int64_t counted = device == CARD ? memory.take(storage.nbytes()) : 0;
  return {const_cast<void*>(storage.data()), new Alias{storage, counted}, &Alias::free, device};
}

struct CardAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    Storage host(Storage::use_byte_size_t(), bytes, c10::GetAllocator(DeviceType::CPU), false);
    return share(host, CARD);
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} card_allocator;

// Host memory that was configured as pinned: the start of each block, and its end.
struct PinnedAllocator final : c10::Allocator {
  static inline std::mutex mutex;
  static inline std::map<const char*, const char*> blocks;
  struct Block { c10::DataPtr data; };
  c10::DataPtr allocate(size_t bytes) override {
    auto data = c10::GetAllocator(DeviceType::CPU)->allocate(std::max<size_t>(bytes, 1));
    auto start = static_cast<char*>(data.get());
    std::lock_guard lock(mutex);
    blocks[start] = start + std::max<size_t>(bytes, 1);
    return {start, new Block{std::move(data)}, &release, Device(DeviceType::CPU)};
  }
  static void release(void* block) {
    { std::lock_guard lock(mutex); blocks.erase(static_cast<char*>(static_cast<Block*>(block)->data.get())); }
    delete static_cast<Block*>(block);
  }
  static bool holds(const void* pointer) {
    std::lock_guard lock(mutex);
    auto after = blocks.upper_bound(static_cast<const char*>(pointer));
    return after != blocks.begin() && static_cast<const char*>(pointer) < std::prev(after)->second;
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} pinned_allocator;

// ---- what torch asks about the device -----------------------------------------------------------------------------
struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return CARD; }
  Device getDevice() const override { return CARD; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const noexcept override { return Stream(Stream::DEFAULT, CARD); }
  Stream getNewStream(Device, int) const override { return Stream(Stream::DEFAULT, CARD); }
  Stream exchangeStream(Stream) const noexcept override { return Stream(Stream::DEFAULT, CARD); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
};
c10::impl::DeviceGuardImplRegistrar guard(DeviceType::CUDA, new Guard());

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  int getNumGPUs() const override { return 1; }
  bool isPinnedPtr(const void* pointer) const override { return PinnedAllocator::holds(pointer); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  Device getDeviceFromPtr(void*) const override { return CARD; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
};
using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", Hooks)

// ---- waits --------------------------------------------------------------------------------------------------------
int64_t sync_mode = 0;  // as torch.cuda.set_sync_debug_mode: 1 warns, 2 raises

void host_waits(const std::string& why) {
  TORCH_CHECK(sync_mode != 2, "called a synchronizing CUDA operation: ", why);
  if (sync_mode == 1) TORCH_WARN("called a synchronizing CUDA operation: ", why);
}

// Operators whose result, or its shape, the host must know.
const std::set<std::string> WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select",
    "aten::equal", "aten::bincount", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"};

bool is_mask(const Tensor& index) { return index.defined() && (index.dtype() == at::kBool || index.dtype() == at::kByte); }

void check_waits(const std::string& name, at::ArrayRef<IValue> args) {
  if (WAITING.count(name)) host_waits(name);
  else if (name == "aten::repeat_interleave" && args[1].isNone()) host_waits(name);
  else if (name == "aten::copy_") {
    auto to = args[0].toTensor(), from = args[1].toTensor();
    bool pinned = to.is_cpu() && PinnedAllocator::holds(to.data_ptr());
    if (to.device() != from.device() && (!args[2].toBool() || (to.is_cpu() && !pinned))) host_waits(name);
  } else if (name == "aten::index" || (name == "aten::_index_put_impl_" && args[2].toTensor().numel() != 1)) {
    for (const IValue& index : args[1].toListRef())
      if (!index.isNone() && (is_mask(index.toTensor()) || index.toTensor().is_cpu())) host_waits(name);
  }
}

// ---- random numbers: the card has its own generator ---------------------------------------------------------------
std::mutex generator_mutex;
at::CPUGeneratorImpl& cpu_generator() { return *at::detail::getDefaultCPUGenerator().get<at::CPUGeneratorImpl>(); }
at::Generator& card_generator() {
  static at::Generator own = at::detail::createCPUGenerator(0);
  return own;
}
// CPU kernels draw from the CPU's default generator: it is given the card's state while they run.
struct CardDraws {
  std::lock_guard<std::mutex> lock{generator_mutex};
  Tensor cpu = state(cpu_generator());
  CardDraws() { set(cpu_generator(), state(*card_generator().get<at::CPUGeneratorImpl>())); }
  ~CardDraws() {
    set(*card_generator().get<at::CPUGeneratorImpl>(), state(cpu_generator()));
    set(cpu_generator(), cpu);
  }
  static Tensor state(at::CPUGeneratorImpl& own) { return Tensor(own.get_state()); }
  static void set(at::CPUGeneratorImpl& own, const Tensor& state) { own.set_state(*state.unsafeGetTensorImpl()); }
};

// ---- one call of an operator ---------------------------------------------------------------------------------------
Tensor on(const Storage& storage, const Tensor& like, DispatchKey key) {
  auto own = at::detail::make_tensor<c10::TensorImpl>(Storage(storage), c10::DispatchKeySet(key), like.dtype());
  auto* impl = own.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  impl->_set_conj(like.is_conj());
  impl->_set_neg(like.is_neg());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return own;
}
Storage card_storage(const Storage& host) {
  return Storage(Storage::use_byte_size_t(), host.nbytes(), share(host, CARD), &card_allocator, true);
}
Storage host_storage(const Storage& card) {
  return Storage(Storage::use_byte_size_t(), card.nbytes(), share(card, Device(DeviceType::CPU)),
                 c10::GetAllocator(DeviceType::CPU), true);
}
Tensor host_view(const Tensor& card) { return on(host_storage(card.storage()), card, DispatchKey::CPU); }
Tensor to_card(const Tensor& host) { return on(card_storage(host.storage()), host, DispatchKey::CUDA); }

// Replaces tensors of the card by views of their memory on the host, and results of the host by tensors of the card.
struct Call {
  std::vector<std::pair<Storage, Storage>> storages;  // of the card, of the host
  std::vector<std::pair<Tensor, Tensor>> tensors;
  std::vector<Tensor> untouched;
  bool makes_on_card = false, mixes = false, cpu_generator = false;

  Storage lower(const Storage& card) {
    if (card.device_type() != DeviceType::CUDA) return card;
    for (auto& [own, host] : storages) if (own.is_alias_of(card)) return host;
    storages.emplace_back(card, host_storage(card));
    return storages.back().second;
  }
  Tensor lower(const Tensor& card) {
    if (!card.defined()) return card;
    if (!card.is_cuda()) {
      mixes |= card.dim() > 0;
      untouched.push_back(card);
      return card;
    }
    for (auto& [own, host] : tensors) if (own.is_same(card)) return host;
    tensors.emplace_back(card, on(lower(card.storage()), card, DispatchKey::CPU));
    return tensors.back().second;
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
      value = Device(DeviceType::CPU);
    } else if (value.isGenerator()) cpu_generator = true;
  }
  Storage raise(const Storage& host) {
    for (auto& [card, own] : storages) if (own.is_alias_of(host)) return card;
    storages.emplace_back(card_storage(host), host);
    return storages.back().first;
  }
  Tensor raise(const Tensor& host) {
    if (!host.defined() || !host.is_cpu()) return host;
    for (auto& [card, own] : tensors) if (own.is_same(host)) return card;
    for (auto& own : untouched) if (own.is_same(host)) return host;
    return tensors.empty() && !makes_on_card ? host : on(raise(host.storage()), host, DispatchKey::CUDA);
  }
  void raise(IValue& value) {
    if (value.isTensor()) value = raise(value.toTensor());
    else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& one : value.toTensorVector()) list.push_back(raise(one));
      value = list;
    }
  }
  // Shapes, storages and sizes of storages that the kernel changed in place.
  void follow() {
    for (auto& [card, host] : storages)
      if (host.data() != card.data()) {
        card.set_data_ptr_noswap(share(host, CARD));
        card.set_nbytes(host.nbytes());
      }
    for (auto& [card, host] : tensors) {
      auto* impl = card.unsafeGetTensorImpl();
      Storage now = raise(host.storage());
      if (!now.is_alias_of(card.storage())) impl->set_storage_keep_dtype(now);
      if (card.sizes() != host.sizes() || card.strides() != host.strides() ||
          card.storage_offset() != host.storage_offset())
        impl->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    }
  }
};

void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const std::string& name = op.schema().name();
  const size_t first = stack->size() - op.schema().arguments().size();
  check_waits(name, at::ArrayRef<IValue>(*stack).slice(first));
  bool card_self = (*stack)[first].isTensor() && (*stack)[first].toTensor().is_cuda();
  Call call;
  for (size_t at = first; at < stack->size(); ++at) call.lower((*stack)[at]);
  if (!call.tensors.empty() && call.mixes) {
    bool allowed = name == "aten::copy_" || (card_self && (name == "aten::index" || name == "aten::_index_put_impl_"))
        || name.rfind("bitsandbytes::optimizer_update", 0) == 0;  // paged state calls itself a tensor of the CPU
    TORCH_CHECK(allowed, "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
                "cpu! (simulated, in ", name, ")");
  }
  TORCH_CHECK(!call.cpu_generator, "Expected a 'cuda' device type for generator but found 'cpu' (simulated, in ", name, ")");
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
  bool square = query.size(-2) == key.size(-2), one_width = query.size(-1) == value.size(-1);
  if (dropout == 0 && context.userEnabledFlashSDP() && half && !mask && one_width && query.size(-1) <= 256 &&
      (square || !causal) && (!shares || shares_heads))
    return static_cast<int64_t>(at::SDPBackend::flash_attention);
  if (dropout == 0 && context.userEnabledMemEfficientSDP() && !shares)
    return static_cast<int64_t>(at::SDPBackend::efficient_attention);
  return static_cast<int64_t>(at::SDPBackend::math);
}

// Registers `run_on_host` for every operator with a kernel for the CPU and none for CUDA, those of `own` left out.
void install(at::ArrayRef<std::string> own) {
  c10::SetAllocator(DeviceType::CUDA, &card_allocator);
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&choose_attention);
  static std::map<std::string, torch::Library> libraries;
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    auto op = dispatcher.findOp(name);
    auto space = name.name.substr(0, name.name.find("::"));
    bool known = space == "aten" || space == "bitsandbytes";
    if (!known || !op || std::find(own.begin(), own.end(), name.name) != own.end()) continue;
    bool for_cpu = op->hasKernelForDispatchKey(DispatchKey::CPU) || name.name == "aten::copy_";
    if (!for_cpu || op->hasKernelForDispatchKey(DispatchKey::CUDA)) continue;
    auto& library = libraries.try_emplace(space, torch::Library::IMPL, space, DispatchKey::CUDA, __FILE__, __LINE__).first->second;
    auto full = name.name + (name.overload_name.empty() ? "" : "." + name.overload_name);
    library.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  }
}
}  // namespace

TORCH_LIBRARY(simulated_cuda, m) {
  m.def("host_view", &host_view);
  m.def("to_card", &to_card);
  m.def("install(str[] own) -> ()", [](c10::List<std::string> own) { install(own.vec()); });
  m.def("memory() -> int[]", [] { std::lock_guard l(memory.mutex); return std::vector<int64_t>{memory.used, memory.peak, memory.calls}; });
  m.def("reset_peak() -> ()", [] { std::lock_guard l(memory.mutex); memory.peak = memory.used; });
  m.def("set_limit(int bytes) -> ()", [](int64_t bytes) { std::lock_guard l(memory.mutex); memory.limit = bytes; });
  m.def("fail_allocation(int calls) -> ()", [](int64_t calls) { std::lock_guard l(memory.mutex); memory.fail_at = memory.calls + calls; });
  m.def("set_sync_mode(int mode) -> ()", [](int64_t mode) { sync_mode = mode; });
  m.def("host_waits(str why) -> ()", [](std::string why) { host_waits(why); });
  m.def("rng_state() -> Tensor", [] { return CardDraws::state(*card_generator().get<at::CPUGeneratorImpl>()).clone(); });
  m.def("set_rng_state", [](const Tensor& state) { CardDraws::set(*card_generator().get<at::CPUGeneratorImpl>(), state); });
  m.def("seed(int seed) -> ()", [](int64_t seed) { card_generator().set_current_seed(seed); });
}
